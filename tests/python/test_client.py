"""A client that knows nothing of Brama but its .proto files.

What a user of any language does: generate, register, report failures, ask, subscribe; and ask the server itself what it serves.
"""

import unittest

import grpc
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from brama.v1 import circuits_pb2, circuits_pb2_grpc, events_pb2, events_pb2_grpc, types_pb2
from cluster import Cluster

TIMEOUT_S = 10


def setUpModule():
    global cluster
    cluster = Cluster()


def tearDownModule():
    cluster.stop()


class ClientTest(unittest.TestCase):
    def setUp(self):
        self.channels = [grpc.insecure_channel(address) for address in cluster.addresses]
        self.circuits = [circuits_pb2_grpc.CircuitsStub(channel) for channel in self.channels]
        self.name = types_pb2.CircuitName(scope="python", identifier=self.id())

    def tearDown(self):
        for channel in self.channels:
            channel.close()

    def register(self, max_attempts=2):
        policy = types_pb2.Policy(max_attempts=max_attempts, expiry=types_pb2.Expiry(ms=60_000))
        request = circuits_pb2.RegisterRequest(name=self.name, policy=policy)
        return self.circuits[0].Register(request, timeout=TIMEOUT_S)

    def report_failure(self, node, reason="refused"):
        request = circuits_pb2.FailureRequest(name=self.name, reason=reason)
        return self.circuits[node].Failure(request, timeout=TIMEOUT_S)

    def test_failures_through_two_nodes_open_the_circuit_for_the_third(self):
        registered = self.register(max_attempts=2)
        self.assertTrue(registered.created)
        self.assertEqual(registered.circuit.state, types_pb2.STATE_CLOSED)

        first = self.report_failure(node=0)
        self.assertEqual((first.state, first.failure_count), (types_pb2.STATE_CLOSED, 1))
        second = self.report_failure(node=1, reason="no route to host")
        self.assertEqual((second.state, second.failure_count), (types_pb2.STATE_OPEN, 2))

        status = self.circuits[2].Status(circuits_pb2.StatusRequest(name=self.name), timeout=TIMEOUT_S)
        self.assertEqual(status.circuit.name, self.name)
        self.assertEqual(status.circuit.state, types_pb2.STATE_OPEN)
        self.assertEqual(status.circuit.totals.failures, 2)
        self.assertEqual(status.circuit.last_reason, "no route to host")
        self.assertEqual(status.circuit.policy.max_attempts, 2)
        opened = status.circuit.opened_at.ToMilliseconds()
        self.assertEqual(status.circuit.expires_at.ToMilliseconds() - opened, 60_000)

    def test_a_subscriber_of_any_node_gets_the_events_in_order_and_resumes_elsewhere(self):
        self.register(max_attempts=1)
        self.report_failure(node=0)
        kinds, cursor = self.subscribe(node=2, count=2, oldest=True)
        self.assertEqual(kinds, [events_pb2.EVENT_TYPE_REGISTRATION, events_pb2.EVENT_TYPE_FAILURE])
        kinds, _ = self.subscribe(node=1, count=1, after=cursor)
        self.assertEqual(kinds, [events_pb2.EVENT_TYPE_CIRCUIT_OPENED])

    def subscribe(self, node, count, **position):
        """Kinds of the next events of this test's circuit, and the cursor after them."""
        request = events_pb2.SubscribeRequest(names=[self.name], **position)
        stream = events_pb2_grpc.EventsStub(self.channels[node]).Subscribe(request, timeout=TIMEOUT_S)
        kinds, revision = [], 0
        for response in stream:
            if response.WhichOneof("message") != "event":
                continue
            self.assertGreater(response.event.revision, revision)
            self.assertEqual(response.event.name, self.name)
            revision = response.event.revision
            kinds.append(response.event.type)
            if len(kinds) == count:
                stream.cancel()
                return kinds, response.cursor
        self.fail("the stream ended")

    def test_an_unknown_circuit_is_not_found(self):
        with self.assertRaises(grpc.RpcError) as raised:
            self.circuits[0].Status(circuits_pb2.StatusRequest(name=self.name), timeout=TIMEOUT_S)
        self.assertEqual(raised.exception.code(), grpc.StatusCode.NOT_FOUND)

    def test_reflection_lists_the_services_and_describes_them(self):
        for channel in self.channels:
            database = ProtoReflectionDescriptorDatabase(channel)
            services = set(database.get_services())
            for expected in ["brama.v1.Circuits", "brama.v1.Events", "brama.v1.Cluster", "grpc.health.v1.Health"]:
                self.assertIn(expected, services)
            self.assertFalse([service for service in services if "internal" in service], "peers are no clients")
            described = DescriptorPool(database).FindServiceByName("brama.v1.Circuits")
            generated = circuits_pb2.DESCRIPTOR.services_by_name["Circuits"]
            self.assertEqual(
                [method.name for method in described.methods], [method.name for method in generated.methods]
            )


if __name__ == "__main__":
    unittest.main(verbosity=2)
