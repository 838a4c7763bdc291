# Sourced where packages are installed: the index is a secret of the build, as its address may hold a password, and build
# arguments stay in an image's history.
if [ -s /run/secrets/pip_index_url ]; then
  PIP_INDEX_URL=$(cat /run/secrets/pip_index_url)
  export PIP_INDEX_URL
fi
