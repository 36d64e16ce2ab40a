"""Make the RayJob of a night (or of many, one after the other) from a suspended RayJob that serves as template.

    create_night.py TEMPLATE --days-ago 1
    create_night.py TEMPLATE --from 2026-10-01 --until 2026-10-31

Runs in a pod whose service account may get and create RayJobs; needs nothing but Python. The job's name holds the date,
so that a night is made once: a second try finds it and says so. Exit code 1 if a night of a range did not succeed.
"""

from __future__ import annotations

import argparse
import copy
import datetime
import json
import os
import ssl
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
#: The queue of a night; the template itself must not be queued, or the queue would start it.
QUEUE_ANNOTATION = "qrbatch/queue-name"
QUEUE_LABEL = "kueue.x-k8s.io/queue-name"
POLL_S = 30.0


def night_of(template: dict[str, Any], date: datetime.date) -> dict[str, Any]:
    """The RayJob of ``date``: the template's spec with the date in it, allowed to run."""
    metadata = template["metadata"]
    labels = {**metadata.get("labels", {}), "qrbatch/date": date.isoformat()}
    if queue := metadata.get("annotations", {}).get(QUEUE_ANNOTATION):
        labels[QUEUE_LABEL] = queue
    spec = copy.deepcopy(template["spec"])
    if "{date}" not in spec["entrypoint"]:
        raise SystemExit(f"{metadata['name']}: expected {{date}} in spec.entrypoint, found none; every night is alike.")
    spec["entrypoint"] = spec["entrypoint"].replace("{date}", date.isoformat())
    spec["suspend"] = False
    return {
        "apiVersion": template["apiVersion"],
        "kind": template["kind"],
        "metadata": {"name": f"{metadata['name']}-{date:%Y%m%d}", "labels": labels},
        "spec": spec,
    }


class Cluster:
    """RayJobs of one namespace, over the cluster's API."""

    def __init__(self, url: str, namespace: str, token: str, certificate: str | None) -> None:
        self._jobs = f"{url}/apis/ray.io/v1/namespaces/{namespace}/rayjobs"
        self._token = token
        self._context = ssl.create_default_context(cafile=certificate) if certificate else None

    def get(self, name: str) -> dict[str, Any]:
        """The RayJob of this name."""
        return self._ask("GET", f"{self._jobs}/{name}")

    def create(self, job: dict[str, Any]) -> bool:
        """False if one of this name is there already."""
        try:
            self._ask("POST", self._jobs, job)
        except urllib.error.HTTPError as error:
            if error.code == 409:
                return False
            raise SystemExit(
                f"{job['metadata']['name']}: {error.code} {error.read().decode(errors='replace')}"
            ) from error
        return True

    def _ask(self, method: str, url: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        headers = {"Authorization": f"Bearer {self._token}", "Content-Type": "application/json"}
        data = json.dumps(body).encode() if body is not None else None
        request = urllib.request.Request(url, data, headers, method=method)
        with urllib.request.urlopen(request, timeout=60, context=self._context) as answer:
            found: dict[str, Any] = json.load(answer)
        return found

    def wait(self, name: str) -> bool:
        """Whether the job succeeded; returns when it has ended."""
        while True:
            status = self.get(name).get("status", {})
            if status.get("jobDeploymentStatus") in ("Complete", "Failed", "ValidationFailed"):
                return status.get("jobStatus") == "SUCCEEDED"
            time.sleep(POLL_S)


def in_this_pod() -> Cluster:
    """The cluster that this pod runs in."""
    host, port = os.environ["KUBERNETES_SERVICE_HOST"], os.environ["KUBERNETES_SERVICE_PORT"]
    token = (ACCOUNT / "token").read_text(encoding="utf-8").strip()
    return Cluster(f"https://{host}:{port}", os.environ["NAMESPACE"], token, str(ACCOUNT / "ca.crt"))


def create_nights(cluster: Cluster, template_name: str, dates: list[datetime.date], wait: bool) -> int:
    """Make the job of each date, oldest first; with ``wait``, the next begins when the one before has ended."""
    template, failed = cluster.get(template_name), 0
    for date in dates:
        job = night_of(template, date)
        name = job["metadata"]["name"]
        say(f"{name}: {'created' if cluster.create(job) else 'is there already'}")
        if wait:
            succeeded = cluster.wait(name)
            failed += not succeeded
            say(f"{name}: {'succeeded' if succeeded else 'FAILED'}")
    return 1 if failed else 0


def say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def dates_of(arguments: argparse.Namespace, today: datetime.date) -> list[datetime.date]:
    """The days that the arguments name."""
    if arguments.days_ago is not None:
        return [today - datetime.timedelta(days=arguments.days_ago)]
    days = (arguments.until - arguments.first).days
    if days < 0:
        raise SystemExit(f"expected --until on or after --from, got {arguments.first} to {arguments.until}")
    return [arguments.first + datetime.timedelta(days=day) for day in range(days + 1)]


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Make the RayJob of a night from a suspended template.")
    parser.add_argument("template", help="name of the suspended RayJob")
    parser.add_argument("--days-ago", type=int, help="the night of today minus this many days (UTC)")
    parser.add_argument("--from", dest="first", type=datetime.date.fromisoformat, help="first day of a range")
    parser.add_argument("--until", type=datetime.date.fromisoformat, help="last day of the range")
    parsed = parser.parse_args(arguments)
    if (parsed.days_ago is None) == (parsed.first is None or parsed.until is None):
        parser.error("give --days-ago, or --from and --until")
    return parsed


def main() -> None:
    arguments = parse()
    dates = dates_of(arguments, datetime.datetime.now(datetime.UTC).date())
    raise SystemExit(create_nights(in_this_pod(), arguments.template, dates, wait=arguments.days_ago is None))


if __name__ == "__main__":
    main()
