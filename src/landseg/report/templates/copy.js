for (const button of document.querySelectorAll("button[data-copy]")) {
  button.hidden = false;
  button.addEventListener("click", () => {
    getSelection().selectAllChildren(document.getElementById(button.dataset.copy));
    button.nextElementSibling.textContent = document.execCommand("copy") ? "Copied." : "Selected: press Ctrl+C.";
  });
}
