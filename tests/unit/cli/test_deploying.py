"""What `wardround deploy render` writes: units that systemd accepts and finds safe, a pod that Podman makes as it says."""

from __future__ import annotations

import configparser
import io
import json
import os
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from wardround.cli.main import app
from wardround.errors import SettingsError

CONTAINERS = Path(__file__).parents[2] / "nodes" / "containers.conf"
HUB = """\
name = "hub"
[grpc]
host = "0.0.0.0"
[enrolment]
host = "0.0.0.0"
[backup]
folder = "/mnt/backups"
[at_rest]
kek = "credential:wardround-kek"
"""
EDGE = 'name = "icu-a"\nhub_host = "h"\nhub_port = 7443\n[mqtt]\nhost = "0.0.0.0"\nport = 8883\n[https]\nhost = "0.0.0.0"\n'


def rendered(tmp_path: Path, role: str, text: str, *more: str) -> dict[str, str]:
    home, out = tmp_path / role, tmp_path / "out"
    home.mkdir(exist_ok=True)
    (home / f"{role}.toml").write_text(text)
    result = CliRunner().invoke(app, ["deploy", "render", "--home", str(home), "--out", str(out), "--json", *more])
    if result.exception is not None:
        raise result.exception
    return {Path(f).name: Path(f).read_text() for f in json.loads(result.stdout)["files"]}


def unit(text: str) -> configparser.RawConfigParser:
    parser = configparser.RawConfigParser(strict=False, interpolation=None, comment_prefixes=("#",))
    parser.optionxform = str
    parser.read_string(text)
    return parser


def test_a_hub_gets_a_unit_a_quadlet_and_a_pod_with_its_own_ports_and_paths(tmp_path):
    files = rendered(tmp_path, "hub", HUB)
    assert sorted(files) == ["wardround-hub.container", "wardround-hub.kube.yaml", "wardround-hub.service"]
    assert not any("${" in text for text in files.values())
    service = unit(files["wardround-hub.service"])["Service"]
    assert service["ExecStart"].endswith(f"-m wardround.cli.main hub run --home {tmp_path}/hub")
    assert service["ReadWritePaths"] == f"{tmp_path}/hub /mnt/backups"
    assert service["LoadCredentialEncrypted"] == "wardround-kek"
    pod = yaml.safe_load(files["wardround-hub.kube.yaml"])
    (container,) = pod["spec"]["containers"]
    assert [p["containerPort"] for p in container["ports"]] == [7443, 7444, 7480]
    assert container["args"] == ["hub", "run", "--home", "/home/wardround"]
    quadlet = files["wardround-hub.container"]
    assert f"Volume={tmp_path}/hub:/home/wardround:Z\n" in quadlet
    assert "PublishPort=7443:7443\nPublishPort=7444:7444\nPublishPort=7480:7480\n" in quadlet


@pytest.mark.parametrize(("file", "more"), [("log/a.log", ""), ("/var/log/wardround/a.log", " /var/log/wardround")])
@pytest.mark.parametrize(("role", "text"), [("hub", HUB.replace("/mnt/backups", "")), ("edge", EDGE)])
def test_a_log_file_outside_of_the_home_may_be_written(tmp_path, role, text, file, more):
    files = rendered(tmp_path, role, f'{text}[log]\nfile = "{file}"\n')
    (service,) = [unit(text)["Service"] for name, text in files.items() if name.endswith(".service")]
    assert service["ReadWritePaths"] == f"{tmp_path}/{role}{more}"


def test_an_edge_gets_its_own_and_a_hub_with_postgresql_stands_by(tmp_path):
    edge = rendered(tmp_path, "edge", EDGE)
    assert sorted(edge)[0] == "wardround-edge-icu-a.container"
    (container,) = yaml.safe_load(edge["wardround-edge-icu-a.kube.yaml"])["spec"]["containers"]
    assert [p["hostPort"] for p in container["ports"]] == [8883, 8443]
    hub = rendered(tmp_path, "hub", "[store]\nurl = 'postgresql:///wardround'\n")
    assert " hub run --standby --home " in hub["wardround-hub.service"]
    assert yaml.safe_load(hub["wardround-hub.kube.yaml"])["spec"]["containers"][0]["args"][:3] == ["hub", "run", "--standby"]


def test_what_a_container_cannot_reach_is_said(tmp_path):
    home = tmp_path / "hub"
    home.mkdir()
    (home / "hub.toml").write_text("")
    result = CliRunner().invoke(app, ["deploy", "render", "--home", str(home), "--out", str(tmp_path / "out")])
    assert "grpc.host is 127.0.0.1" in result.stdout
    nothing = CliRunner().invoke(app, ["deploy", "render", "--home", str(tmp_path), "--out", str(tmp_path / "out")])
    assert isinstance(nothing.exception, SettingsError)


@pytest.mark.parametrize("user", ["root\nExecStartPre=/bin/true", "a b", "$(id)", "%h"])
def test_what_could_begin_another_line_of_a_unit_is_refused(tmp_path, user):
    with pytest.raises(SettingsError, match="cannot stand in a unit"):
        rendered(tmp_path, "hub", HUB, "--user", user)
    with pytest.raises(SettingsError, match="cannot stand in a unit"):
        rendered(tmp_path, "hub", 'name = "x\\nUser=root"')


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd-analyze here")
@pytest.mark.parametrize(("role", "text"), [("hub", HUB), ("edge", EDGE)])
def test_systemd_takes_the_unit_and_finds_it_safe(tmp_path, role, text):
    files = rendered(tmp_path, role, text, "--user", "daemon", "--python", "/bin/true")
    (name,) = [n for n in files if n.endswith(".service")]
    verified = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", tmp_path / "out" / name],
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert name not in verified.stderr, verified.stderr
    judged = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--threshold=20", "--no-pager", tmp_path / "out" / name],
        capture_output=True, text=True, timeout=50, check=False,
    )  # fmt: skip
    assert judged.returncode == 0, judged.stdout[-600:] + judged.stderr


def podman(*arguments: str, **more) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"CONTAINERS_CONF": str(CONTAINERS)}
    return subprocess.run(["podman", *arguments], env=environment, capture_output=True, timeout=50, check=False, **more)


@pytest.mark.skipif(shutil.which("podman") is None or os.getuid() != 0, reason="needs Podman and root")
def test_podman_makes_the_pod_read_only_and_without_rights(tmp_path):
    if (there := podman("info")).returncode != 0:
        pytest.skip(f"Podman does not run here: {there.stderr[-200:]!r}")
    name = f"wr-test-{os.getpid()}"
    image = f"localhost/{name}:1"
    empty = io.BytesIO()
    with tarfile.open(fileobj=empty, mode="w") as tar:
        tar.addfile(tarfile.TarInfo("empty"))
    made = podman("import", "-q", "-", image, input=empty.getvalue())
    assert made.returncode == 0, made.stderr
    kube = tmp_path / "out" / "pod.yaml"
    try:
        text = rendered(tmp_path, "edge", EDGE.replace("icu-a", name), "--image", image)[f"wardround-edge-{name}.kube.yaml"]
        kube.write_text(text)
        played = podman("kube", "play", "--start=false", str(kube))
        assert played.returncode == 0, played.stderr
        (facts,) = json.loads(podman("container", "inspect", f"wardround-edge-{name}-edge").stdout)
        assert facts["HostConfig"]["ReadonlyRootfs"] is True
        assert facts["Config"]["User"] == "10001:10001"
        assert not facts["EffectiveCaps"]
        assert "no-new-privileges" in facts["HostConfig"]["SecurityOpt"]
        assert facts["HostConfig"]["Memory"] == 4 * 1024**3
        mounted = {m["Destination"]: m for m in facts["Mounts"]}
        assert mounted["/home/wardround"]["Source"] == str(tmp_path / "edge")
        assert mounted["/home/wardround"]["RW"] is True
    finally:
        podman("kube", "down", str(kube))
        podman("pod", "rm", "-f", f"wardround-edge-{name}")
        podman("image", "rm", "-f", image)
