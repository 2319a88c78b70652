"""The container image and `deploy/compose.yaml`, tried without Docker.

The image's steps run in a folder in place of the container's root, and the services' commands run as
the container's user, with a real PostgreSQL and the sandbox. What only Docker can try is left out:
the base images, networks, volumes and the starting order. `interop/test_checks.py` has the files read
by the parsers of BuildKit and of Compose.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import tempfile
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import yaml
from sqlalchemy import make_url

from bk_pipeline.cli.demo import environment
from bk_pipeline.clock import SystemClock
from bk_pipeline.ledger.store import Ledger
from bk_pipeline_tests.dagster_dev import PATIENCE_S, Dagster, wait_for
from bk_pipeline_tests.ledger.cluster import database, execute
from bk_pipeline_tests.programs import missing
from bk_pipeline_tests.test_docs import PROJECT
from bk_pipeline_tests.worlds import free_port, stage

DEPLOY = PROJECT / "deploy"
ASSETS = ("raw_builds", "spans", "honeycomb_events")
PIN = re.compile(r"^([a-z0-9-]+)==(\S+)", re.MULTILINE)
# What `--mount=type=cache` does has no counterpart here.
MOUNT = re.compile(r"--mount=\S+\s+")


@dataclass
class Stage:
    """One stage of the Dockerfile, with its steps in order."""

    steps: list[tuple[str, str]] = field(default_factory=list)

    def last(self, name: str) -> str:
        return [value for step, value in self.steps if step == name][-1]

    def environment(self) -> dict[str, str]:
        pairs = [shlex.split(value) for step, value in self.steps if step == "ENV"]
        return dict(one.split("=", 1) for pair in pairs for one in pair)


def stages() -> list[Stage]:
    text = re.sub(r"^\s*#.*\n", "", (DEPLOY / "Dockerfile").read_text(), flags=re.MULTILINE)
    found: list[Stage] = []
    for line in text.replace("\\\n", " ").splitlines():
        name, _, value = line.partition(" ")
        if name == "FROM":
            found.append(Stage())
        elif found and name:
            found[-1].steps.append((name, value.strip()))
    return found


def compose() -> dict:
    return yaml.safe_load((DEPLOY / "compose.yaml").read_text())


def services() -> dict[str, dict]:
    """The services that run our image."""
    return {name: one for name, one in compose()["services"].items() if "build" in one}


@dataclass
class Root:
    """A folder in place of the container's root."""

    folder: Path

    def inside(self, text: str) -> str:
        """Return the text with the container's paths in the folder."""
        return re.sub(r"(?<![\w/.])/(opt|var/lib|src)\b", rf"{self.folder}/\1", text)

    def run(self, step: str, cwd: Path) -> None:
        """Run a RUN step, with the package cache of this machine.

        Users are added in the folder, and `python` is one with nothing installed.
        """
        command = (
            f'groupadd() {{ command groupadd --prefix "{self.folder}" "$@"; }}\n'
            f'useradd() {{ command useradd --prefix "{self.folder}" "$@"; }}\n'
            f"set -e\n{self.inside(MOUNT.sub('', step))}"
        )
        path = f"{self.folder}/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        kept = {name: os.environ[name] for name in ("HOME", *KEPT) if name in os.environ}
        done = subprocess.run(
            ["/bin/sh", "-c", command],
            cwd=cwd,
            env={**kept, "PATH": path},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"

    def copy(self, value: str, cwd: Path) -> None:
        """Carry out a COPY step."""
        *sources, target = value.split()
        if sources[0].startswith("--from="):
            return  # stages share the folder
        to = Path(self.inside(target)) if target.startswith("/") else cwd / target
        for source in sources:
            assert is_in_context(source), f"{source} is not in the build's context"
            here = PROJECT / source
            if here.is_dir():
                shutil.copytree(here, to, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                (to if target.endswith("/") else to.parent).mkdir(parents=True, exist_ok=True)
                shutil.copy(here, to)


AS_USER = {"user": 10001, "group": 10001, "extra_groups": []}
# How this machine reaches the package index.
KEPT = ("PIP_INDEX_URL", "UV_DEFAULT_INDEX", "UV_CACHE_DIR", "HTTPS_PROXY", "SSL_CERT_FILE")


def is_in_context(source: str) -> bool:
    kept = (PROJECT / ".dockerignore").read_text().splitlines()
    return any(line.startswith("!") and Path(source).match(line[1:]) for line in kept)


def public_python() -> str:
    """Return a Python that the container's user can run too."""
    fits = "import ensurepip, sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))"
    for python in ("/usr/local/bin/python3", "/usr/bin/python3"):
        with suppress(OSError):
            if subprocess.run([python, "-c", fits], check=False, **AS_USER).returncode == 0:
                return python
    return missing("Python 3.11 for all users", "python3-venv")


@pytest.fixture(scope="module")
def root():
    """The image's file system, as far as the Dockerfile makes it."""
    if os.geteuid() != 0:
        pytest.skip("only root can run the steps of the image, and its services as another user")
    folder = Path(tempfile.mkdtemp(prefix="bk_pipeline_image_"))
    folder.chmod(0o755)  # the container's user reads it
    made = Root(folder)
    for name in ("opt", "etc", "var/lib", "src"):
        (folder / name).mkdir(parents=True)
    for name in ("passwd", "group", "shadow", "gshadow"):
        (folder / "etc" / name).touch()
    base = folder / "usr" / "local"
    subprocess.run([public_python(), "-m", "venv", base], check=True)
    try:
        for one in stages():
            cwd = folder
            for step, value in one.steps:
                if step == "WORKDIR":
                    cwd = Path(made.inside(value))
                elif step == "COPY":
                    made.copy(value, cwd)
                elif step == "RUN":
                    made.run(value, cwd)
        yield made
    finally:
        shutil.rmtree(folder)


def test_locks_of_the_image_are_those_of_the_project():
    locked = dict(PIN.findall((PROJECT / "requirements.lock").read_text()))
    for name in ("build.lock", "runtime.lock"):
        pins = dict(PIN.findall((DEPLOY / name).read_text()))
        assert {one: pins[one] for one in pins.keys() & locked} == {
            one: locked[one] for one in pins.keys() & locked
        }
    assert (
        locked.keys() - pins.keys() <= dict(PIN.findall((DEPLOY / "build.lock").read_text())).keys()
    )


def test_instance_of_compose_is_the_usual_one_with_postgresql():
    usual = yaml.safe_load((PROJECT / "dagster.yaml").read_text())
    of_compose = yaml.safe_load((DEPLOY / "dagster.yaml").read_text())
    assert of_compose.pop("storage") == {
        "postgres": {"postgres_url": {"env": "DAGSTER_POSTGRES_URL"}}
    }
    assert of_compose == usual
    assert (
        (DEPLOY / "dagster.yaml")
        .read_text()
        .endswith((PROJECT / "dagster.yaml").read_text().split("\n\n", 1)[1])
    )


def test_services_agree_with_the_image():
    image = stages()[-1]
    assert image.last("USER") == "10001:10001"
    ours = services()
    assert set(ours) == {"migrate", "webserver", "daemon"}
    for one in ours.values():
        given = one["environment"]
        assert {name: given[name] for name in image.environment() if name in given} == {
            name: value for name, value in image.environment().items() if name in given
        }
        assert one["volumes"] == [f"data:{image.last('VOLUME')}"]
        assert "127.0.0.1" in one.get("ports", ["127.0.0.1"])[0]
    assert ours["webserver"]["command"] == json.loads(image.last("CMD"))


@contextmanager
def service(root: Root, name: str, env: dict[str, str], log: Path):
    """Run the command of a service in its folder, as the image's user."""
    with log.open("wb") as out:
        process = subprocess.Popen(
            [root.inside(one) for one in command_of(name, env)],
            cwd=root.inside(stages()[-1].last("WORKDIR")),
            env=env,
            stdout=out,
            stderr=out,
            **AS_USER,
        )
    try:
        yield process
    finally:
        process.terminate()
        process.wait(PATIENCE_S)


def command_of(name: str, env: dict[str, str]) -> list[str]:
    found = services()[name]["command"]
    return [env["PORT"] if one == "3000" else one.replace("0.0.0.0", "127.0.0.1") for one in found]


def environment_of(root: Root, url: str, settings: dict[str, str]) -> dict[str, str]:
    """The environment of the services, with another database than compose's."""
    given = services()["daemon"]["environment"]
    env = stages()[-1].environment() | given | settings | {"PORT": str(free_port())}
    env["PATH"] = env["PATH"].replace("$PATH", "/usr/bin:/bin")
    bound = make_url(url)
    for name in ("DAGSTER_POSTGRES_URL", "BK_PIPELINE_LEDGER_URL"):
        drivername = make_url(given[name].replace("${POSTGRES_PASSWORD}", "x")).drivername
        env[name] = bound.set(drivername=drivername).render_as_string(hide_password=False)
    return {name: root.inside(value) for name, value in env.items()} | {"HOME": "/nonexistent"}


@pytest.mark.image
def test_services_of_compose_materialize_a_day(root, tmp_path):
    url = make_url(database()).set(database="bk_pipeline_compose")
    execute(database(), "CREATE DATABASE bk_pipeline_compose")
    url = url.render_as_string(hide_password=False)
    with stage(tmp_path / "unused", builds_per_day=5, live=True) as scene, ExitStack() as running:
        env = environment_of(root, url, environment(scene.sandbox, scene.url))
        home = Path(env["DAGSTER_HOME"])
        shutil.copy(DEPLOY / "dagster.yaml", home)  # compose's `configs`
        with service(root, "migrate", env, tmp_path / "migrate") as migrate:
            assert migrate.wait(PATIENCE_S) == 0, (tmp_path / "migrate").read_text()
        processes = [
            running.enter_context(service(root, name, env, tmp_path / name))
            for name in ("daemon", "webserver")
        ]
        dagster = Dagster(int(env["PORT"]), ASSETS)
        wait_for(lambda: dagster.answers() or any(one.poll() is not None for one in processes))
        run_id = dagster.materialize(scene.days[0])
        wait_for(lambda: dagster.run_status(run_id) in {"SUCCESS", "FAILURE"})
        assert dagster.run_status(run_id) == "SUCCESS", (tmp_path / "daemon").read_text()
        check_health(root, env)
        doctor = subprocess.run(
            ["bk-pipeline", "doctor"],
            env=env,
            cwd=root.folder,
            check=False,
            capture_output=True,
            **AS_USER,
        )
        assert doctor.returncode == 0, doctor.stdout
        with Ledger.open(env["BK_PIPELINE_LEDGER_URL"], clock=SystemClock(), create=False):
            pass
    assert scene.sandbox.honeycomb.event_count > 0
    assert list(Path(env["BK_PIPELINE_DATA_DIR"]).rglob("*.parquet"))
    assert not list(home.rglob("*.db"))  # Dagster's records are in PostgreSQL


def check_health(root: Root, env: dict[str, str]) -> None:
    """Run the health checks of the web server (the image's) and of the daemon."""
    [*_, told] = stages()[-1].last("HEALTHCHECK").partition("CMD ")
    daemon = services()["daemon"]["healthcheck"]["test"][1:]
    for check in (json.loads(told.replace(":3000", f":{env['PORT']}")), daemon):
        wait_for(lambda check=check: healthy(root, check, env))


def healthy(root: Root, check: list[str], env: dict[str, str]) -> bool:
    return subprocess.run(check, env=env, cwd=root.folder, check=False, **AS_USER).returncode == 0
