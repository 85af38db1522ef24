"""Prints a bill of materials (CycloneDX 1.6, JSON) of the program: every crate that is compiled into it.

    python3 packaging/sbom.py < the output of `cargo metadata --format-version 1 --locked --filter-platform TARGET`
"""

import json
import sys

from cyclonedx.contrib.license.factories import LicenseFactory
from cyclonedx.model import ExternalReference, ExternalReferenceType, XsUri
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.output import make_outputter
from cyclonedx.schema import OutputFormat, SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from packageurl import PackageURL

metadata = json.load(sys.stdin)
packages = {package["id"]: package for package in metadata["packages"]}
nodes = {node["id"]: node for node in metadata["resolve"]["nodes"]}


def dependencies(node: dict) -> list[str]:
    """The crates that a crate links, without those of its build script and its tests."""
    return [one["pkg"] for one in node["deps"] if any(kind["kind"] is None for kind in one["dep_kinds"])]


def component(package: dict, kind: ComponentType) -> Component:
    licences = []
    if package["license"]:
        # Old crates separate alternatives by a slash.
        licences = [LicenseFactory().make_from_string(package["license"].replace("/", " OR "))]
    references = []
    if package["repository"]:
        references = [ExternalReference(type=ExternalReferenceType.VCS, url=XsUri(package["repository"]))]
    return Component(
        type=kind,
        name=package["name"],
        version=package["version"],
        description=package["description"],
        licenses=licences,
        external_references=references,
        purl=PackageURL("cargo", name=package["name"], version=package["version"]),
        bom_ref=f"{package['name']}@{package['version']}",
    )


root = metadata["resolve"]["root"]
components = {root: component(packages[root], ComponentType.APPLICATION)}
waiting = [root]
while waiting:
    for found in dependencies(nodes[waiting.pop()]):
        if found not in components:
            components[found] = component(packages[found], ComponentType.LIBRARY)
            waiting.append(found)

bom = Bom()
bom.metadata.component = components[root]
for crate, described in components.items():
    if crate != root:
        bom.components.add(described)
    bom.register_dependency(described, [components[one] for one in dependencies(nodes[crate])])

text = make_outputter(bom, OutputFormat.JSON, SchemaVersion.V1_6).output_as_string(indent=2)
if wrong := JsonStrictValidator(SchemaVersion.V1_6).validate_str(text):
    sys.exit(f"sbom: the bill of materials does not match its schema: {wrong}")
print(text)
