"""Three `brama serve` processes on free ports, with data that is thrown away."""

import os
import pathlib
import shutil
import socket
import subprocess
import tempfile
import time

import grpc
from brama.v1 import cluster_pb2, cluster_pb2_grpc

READY_WITHIN_S = 30


def free_ports(count):
    """Ports that nobody listens on now."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()


class Cluster:
    def __init__(self):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="brama-python-"))
        self.processes = []
        ports = free_ports(6)
        self.addresses = [f"127.0.0.1:{port}" for port in ports[:3]]
        peers = [f"127.0.0.1:{port}" for port in ports[3:]]
        members = ",".join(f"{id}={peer}" for id, peer in enumerate(peers, start=1))
        try:
            for id, (client, peer) in enumerate(zip(self.addresses, peers), start=1):
                self._start(id, client, peer, members)
            self._wait()
        except BaseException:
            self.stop(keep=True)
            raise

    def _start(self, id, client, peer, members):
        command = [os.environ["BRAMA_BIN"], "serve", "--id", str(id)]
        command += ["--data-dir", str(self.folder / f"node{id}")]
        command += ["--client-listen", client, "--peer-listen", peer]
        command += ["--cluster-name", "python", "--members", members]
        # A node takes every BRAMA_ variable for a setting, and refuses those it does not know.
        environment = {key: value for key, value in os.environ.items() if not key.startswith("BRAMA_")}
        with open(self.folder / f"node{id}.log", "wb") as log:
            self.processes.append(subprocess.Popen(command, env=environment, stdout=log, stderr=log))

    def _wait(self):
        deadline = time.monotonic() + READY_WITHIN_S
        for address in self.addresses:
            with grpc.insecure_channel(address) as channel:
                stub = cluster_pb2_grpc.ClusterStub(channel)
                while not self._is_ready(stub):
                    if time.monotonic() > deadline:
                        raise TimeoutError(f"{address} is not ready; logs: {self.folder}")
                    time.sleep(0.1)

    @staticmethod
    def _is_ready(stub):
        try:
            status = stub.Status(cluster_pb2.ClusterStatusRequest(), timeout=1)
        except grpc.RpcError:
            return False
        return status.has_quorum and status.applied_index > 1

    def stop(self, keep=False):
        for process in self.processes:
            process.kill()
        for process in self.processes:
            process.wait()
        if not keep:
            shutil.rmtree(self.folder)
