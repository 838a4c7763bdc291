"""Lists what is in images, as CycloneDX: `python docker/sbom.py IMAGE ...` writes build/sbom/<image>.cdx.json.

The list comes from the image itself: what is installed for Python, and Debian's packages. Run again on the same image
it gives the same bytes.
"""

import json
import re
import subprocess
import sys
import uuid
from datetime import datetime
from pathlib import Path
from typing import Any

from cyclonedx.contrib.license.factories import LicenseFactory
from cyclonedx.model import Property
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.output.json import JsonV1Dot6
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from packageurl import PackageURL

FOLDER = Path("build/sbom")

# Runs in the image, with its Python and nothing else.
INVENTORY = r"""
import importlib.metadata, json, platform, subprocess, sys, sysconfig
from landseg import __version__
base = [sysconfig.get_path("purelib", vars={"base": sys.base_prefix}), "/usr/lib/python3/dist-packages"]
packages = set()
for found in importlib.metadata.distributions(path=[*sys.path, *base]):
    about = found.metadata
    packages.add((about["Name"], found.version, about["License-Expression"] or about["License"] or ""))
query = ["dpkg-query", "--show", "--showformat", "${Package}\t${Version}\t${Architecture}\n"]
lines = subprocess.run(query, capture_output=True, text=True, check=True).stdout.splitlines()
release = platform.freedesktop_os_release()
json.dump({
    "landseg": __version__,
    "interpreter": platform.python_version(),
    "python": sorted(packages),
    "debian": sorted(line.split("\t") for line in lines),
    "release": [release["ID"], release["VERSION_ID"]],
}, sys.stdout)
"""


def main(images: list[str]) -> None:
    """Write a list for each image."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    for image in images:
        text = JsonV1Dot6(bill_of_materials(image)).output_as_string(indent=1)
        if error := JsonStrictValidator(SchemaVersion.V1_6).validate_str(text):
            raise RuntimeError(f"{image}: not what CycloneDX allows: {error.data}")
        path = FOLDER / (re.sub(r"[^A-Za-z0-9._-]+", "_", image) + ".cdx.json")
        path.write_text(text + "\n")
        print(f"{path}: {len(json.loads(text)['components'])} components")


def bill_of_materials(image: str) -> Bom:
    """What an image holds, and which image that is."""
    facts = json.loads(docker("image", "inspect", image))[0]
    labels = facts["Config"]["Labels"] or {}
    confined = ("--rm", "--interactive", "--network=none", "--read-only", "--entrypoint=python")
    contents = json.loads(docker("run", *confined, image, "-", stdin=INVENTORY))
    name, _, tag = image.rpartition("/")[2].partition(":")
    subject = component(
        labels.get("org.opencontainers.image.title", name),
        labels.get("org.opencontainers.image.version", tag),
        PackageURL("oci", None, name, qualifiers={"tag": tag}),
        kind=ComponentType.CONTAINER,
    )
    subject.properties.add(Property(name="docker:image:id", value=facts["Id"]))
    bom = Bom(components=components(contents), serial_number=uuid.uuid5(uuid.NAMESPACE_OID, facts["Id"]))
    bom.metadata.component = subject
    bom.metadata.timestamp = datetime.fromisoformat(labels.get("org.opencontainers.image.created", facts["Created"]))
    bom.register_dependency(subject, bom.components)
    return bom


def components(contents: dict[str, Any]) -> list[Component]:
    """landseg, Python, packages of Python, and packages of Debian."""
    distro, release = contents["release"]
    found = [
        component("landseg", contents["landseg"], license_text="Apache-2.0"),
        component("python", contents["interpreter"], license_text="PSF-2.0"),
    ]
    for name, version, license_text in contents["python"]:
        normal = re.sub(r"[-_.]+", "-", name).lower()
        found.append(component(name, version, PackageURL("pypi", None, normal, version), license_text=license_text))
    for name, version, arch in contents["debian"]:
        qualifiers = {"arch": arch, "distro": f"{distro}-{release}"}
        found.append(component(name, version, PackageURL("deb", distro, name, version, qualifiers)))
    return found


def component(
    name: str,
    version: str,
    purl: PackageURL | None = None,
    *,
    license_text: str = "",
    kind: ComponentType = ComponentType.LIBRARY,
) -> Component:
    """One component; a licence that is no more than a line long comes along."""
    purl = purl or PackageURL("generic", None, name, version)
    licenses = [LicenseFactory().make_from_string(license_text)] if license_text and "\n" not in license_text else []
    return Component(name=name, version=version, purl=purl, bom_ref=str(purl), type=kind, licenses=licenses)


def docker(*arguments: str, stdin: str = "") -> str:
    """Run the Docker client and take what it prints."""
    return subprocess.run(["docker", *arguments], input=stdin, stdout=subprocess.PIPE, text=True, check=True).stdout


if __name__ == "__main__":
    main(sys.argv[1:])
