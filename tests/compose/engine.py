"""A container engine of its own: namespaces, dockerd, Compose, and stand-ins for the registry's images.

The engine runs in network, mount and process namespaces of its own. It shares no port, packet filter, socket or image with
another engine, and the kernel ends everything in it when the first process ends, however that happens.
"""

import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

# In the namespace there is no way out but the proxy at this address of the engine's own bridge.
BRIDGE = "172.30.0.1"
PROXY_PORT = 3128

TOOLS = {"dockerd": "docker.io", "docker": "docker.io", "debootstrap": "debootstrap", "unshare": "util-linux",
         "ip": "iproute2", "apt-get": "apt", "dpkg-deb": "dpkg"}


class Unavailable(Exception):
    """There is no engine to be had here; the text says why."""


def tool_run(arguments, what, **options):
    done = subprocess.run(arguments, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **options)
    if done.returncode != 0:
        lines = done.stdout.strip().splitlines() or ["no output"]
        raise Unavailable(f"{what}: {lines[-1]}")
    return done.stdout


# --- outside, with the machine's network -------------------------------------------------------------------


def prepare(work):
    """Brings what the engine needs into `work`: Compose 2, buildx, and a Debian 12."""
    if os.geteuid() != 0:
        raise Unavailable("only root can start an engine")
    for tool, package in TOOLS.items():
        if not shutil.which(tool):
            raise Unavailable(f"there is no {tool} (apt-get install {package})")
    tool_run(["unshare", "--net", "--mount", "--pid", "--fork", "--mount-proc", "true"], "no namespaces")
    _plugins(work)
    base = os.environ.get("COUNTERSIGN_COMPOSE_BASE")
    if base:
        shutil.copy(base, work / "base.tar")
    else:
        print("debootstrap: Debian 12 for the images", flush=True)
        tool_run(["debootstrap", "--variant=minbase", "bookworm", work / "base", "http://deb.debian.org/debian"],
                 "debootstrap")
        subprocess.run(["tar", "-C", work / "base", "-cf", work / "base.tar", "."], check=True)
        shutil.rmtree(work / "base")


def _plugins(work):
    """Debian 12 has no Compose 2: Debian 13's packages are unpacked, not installed."""
    plugins = work / "config" / "cli-plugins"
    plugins.mkdir(parents=True)
    apt = work / "apt"
    for folder in ("lists/partial", "cache/archives/partial", "parts"):
        (apt / folder).mkdir(parents=True)
    (apt / "sources").write_text("deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] "
                                 "http://deb.debian.org/debian trixie main\n")
    options = [f"-oDir::Etc::sourcelist={apt}/sources", f"-oDir::Etc::sourceparts={apt}/parts",
               f"-oDir::State::lists={apt}/lists", f"-oDir::Cache={apt}/cache", "-oAPT::Sandbox::User=root"]
    tool_run(["apt-get", *options, "update", "-qq"], "Debian 13's packages")
    tool_run(["apt-get", *options, "download", "-qq", "docker-compose", "docker-buildx"], "Debian 13's packages",
             cwd=apt)
    for package in apt.glob("*.deb"):
        tool_run(["dpkg-deb", "-x", package, apt / "tree"], "Debian 13's packages")
    for plugin in (apt / "tree/usr/libexec/docker/cli-plugins").iterdir():
        shutil.copy(plugin, plugins)
    shutil.rmtree(apt)


def run_inside(work, program, names):
    """Runs `program` in the namespaces, lends it the network by a proxy for apt, and returns its exit code."""
    ours, theirs = socket.socketpair()
    command = ["unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc",
               sys.executable, program, "--inside", str(work), str(theirs.fileno()), *names]
    child = subprocess.Popen(command, pass_fds=[theirs.fileno()])
    theirs.close()
    try:
        _, descriptors, _, _ = socket.recv_fds(ours, 1, 1)
        if descriptors:
            listener = socket.socket(fileno=descriptors[0])
            threading.Thread(target=_lend_network, args=(listener,), daemon=True).start()
        return child.wait()
    finally:
        child.kill()
        child.wait()
        _remove_control_groups(work.name)


def _remove_control_groups(name):
    # A group can be removed when its last process is gone, which takes the kernel a moment.
    deadline = time.monotonic() + 10
    groups = [top for pattern in (name, f"*/{name}") for top in Path("/sys/fs/cgroup").glob(pattern)]
    while groups and time.monotonic() < deadline:
        for top in groups:
            for group, _, _ in os.walk(top, topdown=False):
                try:
                    os.rmdir(group)
                except OSError:
                    pass
        groups = [top for top in groups if top.exists()]


def _lend_network(listener):
    """Accepts in the namespace and connects outside of it: apt's `GET http://host/path`, one request a connection."""
    while True:
        client, _ = listener.accept()
        threading.Thread(target=_forward, args=(client,), daemon=True).start()


def _forward(client):
    with client, client.makefile("rb") as lines:
        try:
            method, url, version = lines.readline().decode("latin-1").split()
            host, _, path = url.removeprefix("http://").partition("/")
            head = f"{method} /{path} {version}\r\nConnection: close\r\n".encode("latin-1")
            for line in iter(lines.readline, b""):
                if not line.lower().startswith((b"connection:", b"proxy-")):
                    head += line
                if line == b"\r\n":
                    break
            name, _, port = host.partition(":")
            with socket.create_connection((name, int(port or 80)), timeout=60) as server:
                server.sendall(head)
                while data := server.recv(65536):
                    client.sendall(data)
        except (OSError, ValueError) as error:
            print(f"proxy for apt: {error}", file=sys.stderr)


# --- inside -----------------------------------------------------------------------------------------------


class Engine:
    """dockerd of this run. Its client commands get a small environment and nothing of the caller's."""

    def __init__(self, work, repository, descriptor):
        self.work, self.repository = work, repository
        # Sockets of the machine's own engine and containerd are not to be found.
        subprocess.run(["mount", "-t", "tmpfs", "tmpfs", "/run"], check=True)
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
        listener = socket.create_server(("", PROXY_PORT), backlog=64)
        socket.send_fds(socket.socket(fileno=descriptor), [b"."], [listener.fileno()])
        listener.close()
        self.environment = {
            "PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": str(work), "DOCKER_HOST": f"unix://{work}/docker.sock",
            "DOCKER_CONFIG": str(work / "config"), "DOCKER_BUILDKIT": "1", "COMPOSE_FILE": "docker-compose.yml",
            "COMPOSE_ENV_FILES": str(work / "env"), "BUILDKIT_PROGRESS": "plain",
        }
        log = open(work / "dockerd.log", "wb")
        self.daemon = subprocess.Popen(
            ["dockerd", "--data-root", work / "data", "--exec-root", work / "exec", "--pidfile", work / "docker.pid",
             "-H", self.environment["DOCKER_HOST"], "--bip", f"{BRIDGE}/24", "--cgroup-parent", f"/{work.name}"],
            env=self.environment, stdout=log, stderr=log)
        deadline = time.monotonic() + 60
        while self.try_docker("version").returncode != 0:
            if self.daemon.poll() is not None or time.monotonic() > deadline:
                lines = (work / "dockerd.log").read_text(errors="replace").strip().splitlines() or ["no output"]
                raise Unavailable(f"dockerd does not start: {lines[-1]}")
            time.sleep(0.2)

    def try_docker(self, *arguments, **options):
        return subprocess.run(["docker", *arguments], env=self.environment, cwd=self.repository, text=True,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **options)

    def docker(self, *arguments, **options):
        """What the command printed; an AssertionError with its last lines when it fails."""
        done = self.try_docker(*arguments, **options)
        if done.returncode != 0:
            tail = "\n".join(done.stdout.strip().splitlines()[-25:])
            raise AssertionError(f"docker {' '.join(arguments)} ended with {done.returncode}:\n{tail}")
        return done.stdout.strip()

    def compose(self, *arguments):
        return self.docker("compose", *arguments)

    def shell(self, script):
        """Runs commands of the README as they stand there."""
        done = subprocess.run(["bash", "-euo", "pipefail", "-c", script], env=self.environment, cwd=self.repository,
                              text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        assert done.returncode == 0, f"ended with {done.returncode}:\n{done.stdout[-3000:]}"

    def stop(self):
        self.daemon.terminate()
        try:
            self.daemon.wait(60)
        except subprocess.TimeoutExpired:
            self.daemon.kill()

    # --- images ---

    def make_images(self, stand_ins, binary):
        """The images that the shipped files name, under the same names. None of them is pulled."""
        self.docker("import", str(self.work / "base.tar"), "scratch-debian")
        context = self.work / "stand-ins"
        shutil.copytree(stand_ins, context)
        for name, tag in [("debian", "debian:bookworm-slim"), ("redis", "redis:7.2-alpine"),
                          ("nginx", "nginx:1.28-alpine"), ("prometheus", "prom/prometheus:v3.5.0")]:
            self._build(context / name, tag)
        self.new_binary(binary)

    def new_binary(self, binary, more=b""):
        """Gives the stand-in for Rust what its `cargo build` is to result in."""
        context = self.work / "stand-ins" / "rust"
        (context / "countersign").write_bytes(Path(binary).read_bytes() + more)
        self._build(context, "rust:1.95-slim-bookworm")

    def _build(self, context, tag):
        self.docker("build", "--build-arg", f"PROXY=http://{BRIDGE}:{PROXY_PORT}", "-t", tag, str(context))
