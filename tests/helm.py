"""Renders the Helm chart as `helm template` does and checks each object against the schema of Kubernetes.

helm.py CHART VERSION   values come from standard input, as JSON; prints the objects as a JSON list

It ends with 1 and the error if the chart refuses the values, or if an object has a field that Kubernetes of this version does not
know. It uses Helm's own Go library (helm-python-sdk) and kubernetes-validate, which tests/setup.sh puts into target/helm.
"""

import json
import sys

import helm_python as helm
import kubernetes_validate
import yaml

# Resources of the Prometheus Operator. Kubernetes has no schema of them.
FOREIGN = {"ServiceMonitor"}


def main():
    path, version = sys.argv[1:]
    values = json.load(sys.stdin)
    with helm.Chart.load(path) as chart:
        chart.validate_schema(values)
        rendered = chart.render(values, name="release", namespace="presence")
    warnings = [found["error"] for found in helm.lint(path, values, strict=True)["messages"] if found["severity"] > 1]
    if warnings:
        sys.exit("\n".join(warnings))
    found = []
    for name, text in sorted(rendered.items()):
        if name.endswith(".txt"):
            continue
        for thing in yaml.safe_load_all(text):
            if thing is None:
                continue
            if thing["kind"] not in FOREIGN:
                kubernetes_validate.validate(thing, version, strict=True)
            found.append(thing)
    json.dump(found, sys.stdout)


try:
    main()
except (helm.HelmError, kubernetes_validate.ValidationError) as why:
    sys.exit(str(why))
