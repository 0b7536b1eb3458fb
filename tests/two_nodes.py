"""Two "machines" on one: network namespaces with a cable between them, a real sshd in each, and a hostfile.

For tests and for trying things out as root; needs `ip`, `sshd`, `ssh-keygen` and `pdsh` (on Debian: iproute2,
openssh-server, pdsh):

    python -m tests.two_nodes deepspeed --hostfile HOSTFILE --module pipeline.cli.train -c RECIPE

runs a command on the first of them; HOSTFILE and the options that belong to it are put in.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType

from tests.launching import environment

NODES = ("node1", "node2")
ADDRESSES = {"node1": "10.177.0.1", "node2": "10.177.0.2"}
LINK = "gst0"  # the same name in both, as GLOO_SOCKET_IFNAME is one value for all machines
TOOLS = ("ip", "sshd", "ssh", "ssh-keygen", "pdsh")
# What DeepSpeed's launcher would not hand on to the other machine by itself.
HANDED_ON = ("OMP_NUM_THREADS", "DS_ACCELERATOR", "CUDA_VISIBLE_DEVICES", "HF_HUB_OFFLINE", "PYTHONWARNINGS")


def why_not() -> str | None:
    """What is missing here; None when two nodes can be made."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    missing = [tool for tool in TOOLS if _find(tool) is None]
    if missing:
        return f"not installed: {', '.join(missing)}"
    tried = subprocess.run([_tool("ip"), "netns", "add", "gst-probe"], capture_output=True, text=True, check=False)
    if tried.returncode:
        return f"no network namespaces here: {tried.stderr.strip()}"
    subprocess.run([_tool("ip"), "netns", "delete", "gst-probe"], check=False)
    return None


class TwoNodes:
    """A context: inside, both nodes are up. They share the machine's files, and nothing of its network.

    Attributes:
        hostfile: for `deepspeed --hostfile`, one rank on each node.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._name = {node: f"gst-{os.getpid()}-{node}" for node in NODES}
        self._servers: list[subprocess.Popen[bytes]] = []
        self.hostfile = folder / "hostfile"

    def __enter__(self) -> TwoNodes:
        self._folder.mkdir(parents=True, exist_ok=True)
        try:
            self._lay_cable()
            self._write_files()
            self._start_servers()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for node in NODES:
            self.kill(node, servers=True)
        for server in self._servers:
            server.wait()
        for node in NODES:
            subprocess.run([_tool("ip"), "netns", "delete", self._name[node]], capture_output=True, check=False)

    def launcher(self) -> list[str]:
        """`deepspeed` with the options of this hostfile, to be started on the first node."""
        options = ["--hostfile", self.hostfile, "--master_addr", ADDRESSES["node1"], "--master_port", 29511]
        return [str(Path(sys.executable).with_name("deepspeed")), *map(str, options)]

    def start(self, words: Sequence[object], node: str = "node1") -> subprocess.Popen[str]:
        """Start a command on a node."""
        return subprocess.Popen(
            [*self._inside(node), *map(str, words)],
            env=self.environment(),
            cwd=self._folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def environment(self) -> Mapping[str, str]:
        """Of a command on a node: our ssh before the system's, and the file that DeepSpeed hands on."""
        mine = environment()
        path = f"{self._folder / 'bin'}{os.pathsep}{mine['PATH']}"
        return {**mine, "PATH": path, "DS_ENV_FILE": str(self._folder / "deepspeed_env"), "PDSH_RCMD_TYPE": "ssh"}

    def pids(self, node: str) -> list[int]:
        """Processes that run on a node, sshd's own among them."""
        done = subprocess.run(
            [_tool("ip"), "netns", "pids", self._name[node]], capture_output=True, text=True, check=False
        )
        return [int(pid) for pid in done.stdout.split()]

    def kill(self, node: str, *, servers: bool = False) -> None:
        """SIGKILL everything on a node but its sshd (`servers`: that as well), as a power cut would."""
        spared = set() if servers else {server.pid for server in self._servers}
        subprocess.run(["kill", "-9", *(str(pid) for pid in self.pids(node) if pid not in spared)],
                       capture_output=True, check=False)  # fmt: skip

    def cable(self, *, plugged: bool) -> None:
        """Pull the cable out of the second node, or put it back: packets vanish, and no connection is told."""
        self._ip("node2", "link", "set", LINK, "up" if plugged else "down")

    def _lay_cable(self) -> None:
        for node in NODES:
            _run(_tool("ip"), "netns", "add", self._name[node])
        one, other = (self._name[node] for node in NODES)
        _run(_tool("ip"), "link", "add", LINK, "netns", one, "type", "veth", "peer", "name", LINK, "netns", other)
        for node in NODES:
            self._ip(node, "addr", "add", f"{ADDRESSES[node]}/24", "dev", LINK)
            self._ip(node, "link", "set", "lo", "up")
            self._ip(node, "link", "set", LINK, "up")

    def _write_files(self) -> None:
        folder = self._folder
        for key in ("host_key", "user_key"):
            (folder / key).unlink(missing_ok=True)
            _run(_tool("ssh-keygen"), "-q", "-t", "ed25519", "-N", "", "-f", folder / key)
        (folder / "authorized_keys").write_text((folder / "user_key.pub").read_text())
        hosts = "".join(f"Host {node}\n  HostName {address}\n" for node, address in ADDRESSES.items())
        # ServerAlive: without it the launcher waits for ever for a machine that is cut off.
        (folder / "ssh_config").write_text(
            f"{hosts}Host *\n  IdentityFile {folder}/user_key\n  IdentitiesOnly yes\n  StrictHostKeyChecking no\n"
            "  UserKnownHostsFile /dev/null\n  LogLevel ERROR\n  ServerAliveInterval 5\n  ServerAliveCountMax 3\n"
        )
        (folder / "bin").mkdir(exist_ok=True)
        ssh = folder / "bin" / "ssh"
        ssh.write_text(f'#!/bin/sh\nexec {_tool("ssh")} -F {folder}/ssh_config "$@"\n')
        ssh.chmod(0o755)
        self.hostfile.write_text("".join(f"{node} slots=1\n" for node in NODES))
        handed = {name: os.environ.get(name, environment().get(name, "")) for name in HANDED_ON}
        handed["GLOO_SOCKET_IFNAME"] = LINK
        (folder / "deepspeed_env").write_text("".join(f"{name}={value}\n" for name, value in handed.items() if value))

    def _start_servers(self) -> None:
        Path("/run/sshd").mkdir(exist_ok=True)  # sshd insists on it
        for node, address in ADDRESSES.items():
            config = self._folder / f"sshd_config_{node}"
            config.write_text(
                f"ListenAddress {address}\nHostKey {self._folder}/host_key\nPidFile none\nUsePAM no\nStrictModes no\n"
                f"AuthorizedKeysFile {self._folder}/authorized_keys\nPermitRootLogin prohibit-password\n"
                "PasswordAuthentication no\nMaxStartups 100\n"
            )
            log = open(self._folder / f"sshd_{node}.log", "wb")  # noqa: SIM115 - sshd's for as long as it lives
            command = [*self._inside(node), _tool("sshd"), "-D", "-e", "-f", str(config)]
            self._servers.append(subprocess.Popen(command, stdout=log, stderr=log))
        deadline = time.monotonic() + 20
        for node in NODES:
            while subprocess.run([*self._inside("node1"), self._folder / "bin" / "ssh", node, "true"],
                                 capture_output=True, check=False).returncode:  # fmt: skip
                assert time.monotonic() < deadline, (self._folder / f"sshd_{node}.log").read_text()
                time.sleep(0.2)

    def _inside(self, node: str) -> list[str]:
        return [_tool("ip"), "netns", "exec", self._name[node]]

    def _ip(self, node: str, *words: str) -> None:
        _run(_tool("ip"), "-n", self._name[node], *words)


def _find(tool: str) -> str | None:
    return shutil.which(tool, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")


def _tool(name: str) -> str:
    return _find(name) or name


def _run(*words: object) -> None:
    subprocess.run([str(word) for word in words], check=True, capture_output=True)


def main() -> None:
    """Run the command of the command line on the first of two nodes."""
    missing = why_not()
    if missing:
        sys.exit(missing)
    with tempfile.TemporaryDirectory(prefix="gst-nodes-") as folder, TwoNodes(Path(folder)) as nodes:
        words = sys.argv[1:]
        if words[:1] == ["deepspeed"]:
            words = [*nodes.launcher(), *(word for word in words[1:] if word not in ("--hostfile", "HOSTFILE"))]
        process = nodes.start(words)
        assert process.stdout is not None
        for line in process.stdout:
            print(line, end="", flush=True)
        sys.exit(process.wait())


if __name__ == "__main__":
    main()
