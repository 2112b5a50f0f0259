//! What clients of all kinds rely on: that the node describes itself, and that its errors fit through narrow doors.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use prost::Message as _;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;
use tonic_reflection::pb::v1::{ServerReflectionRequest, ServiceResponse};
use tonic_reflection::pb::v1alpha;

use brama_proto::v1;
use common::{Cluster, Refused, name, scoped};
use v1::circuits_client::CircuitsClient;
use v1::events_client::EventsClient;

#[tokio::test(flavor = "multi_thread")]
async fn clients_of_all_kinds() {
    let cluster = Cluster::start().await;
    reflection_shows_what_clients_may_speak_and_nothing_else(&cluster).await;
    errors_fit_into_eight_kib_of_headers(&cluster).await;
    no_scope_can_be_asked_for(&cluster).await;
    cluster.stop().await;
}

async fn reflection_shows_what_clients_may_speak_and_nothing_else(cluster: &Cluster) {
    let channel = connect(cluster, 0, None).await;
    let mut client = ServerReflectionClient::new(channel.clone());
    let mut ask = async |request: MessageRequest| {
        let request = ServerReflectionRequest {
            host: String::new(),
            message_request: Some(request),
        };
        let answers = client
            .server_reflection_info(futures::stream::iter([request]))
            .await;
        let mut answers = answers.unwrap().into_inner();
        answers
            .message()
            .await
            .map(|answer| answer.unwrap().message_response.unwrap())
    };
    let MessageResponse::ListServicesResponse(all) =
        ask(MessageRequest::ListServices(String::new())).await.unwrap()
    else {
        panic!("a list of services");
    };
    let mut names: Vec<_> = all
        .service
        .into_iter()
        .map(|ServiceResponse { name }| name)
        .collect();
    names.retain(|name| !name.starts_with("grpc.reflection."));
    names.sort_unstable();
    assert_eq!(
        names,
        [
            "brama.v1.Circuits",
            "brama.v1.Cluster",
            "brama.v1.Events",
            "grpc.health.v1.Health"
        ]
    );
    for symbol in [
        "brama.v1.Circuits",
        "brama.v1.Policy",
        "google.protobuf.Timestamp",
    ] {
        let answer = ask(MessageRequest::FileContainingSymbol(symbol.to_owned()))
            .await
            .unwrap();
        assert!(
            matches!(answer, MessageResponse::FileDescriptorResponse(_)),
            "{symbol}"
        );
    }
    let internal = ask(MessageRequest::FileContainingSymbol(
        "brama.internal.v1.Peer".to_owned(),
    ))
    .await;
    assert!(
        !matches!(internal, Ok(MessageResponse::FileDescriptorResponse(_))),
        "{internal:?}"
    );

    // Older tools speak the older version.
    let mut client = v1alpha::server_reflection_client::ServerReflectionClient::new(channel);
    let request = v1alpha::ServerReflectionRequest {
        host: String::new(),
        message_request: Some(v1alpha::server_reflection_request::MessageRequest::ListServices(
            String::new(),
        )),
    };
    let answers = client
        .server_reflection_info(futures::stream::iter([request]))
        .await;
    let answer = answers.unwrap().into_inner().message().await.unwrap().unwrap();
    let Some(v1alpha::server_reflection_response::MessageResponse::ListServicesResponse(all)) =
        answer.message_response
    else {
        panic!("a list of services");
    };
    assert!(
        all.service
            .iter()
            .any(|service| service.name == "brama.v1.Circuits")
    );
}

/// gRPC for Java takes 8 KiB of headers unless it is told otherwise; more would reach the caller as a broken connection.
async fn errors_fit_into_eight_kib_of_headers(cluster: &Cluster) {
    for i in 0..3 {
        let channel = connect(cluster, i, Some(8 * 1024)).await;
        let mut circuits = CircuitsClient::new(channel.clone());
        // Everything that a circuit can hold, in characters that become three each on the way.
        let largest = scoped(&format!("{i}{}", "é".repeat(127)), &"ü".repeat(127));
        let request = v1::RegisterRequest {
            name: Some(largest.clone()),
            policy: Some(v1::Policy {
                max_attempts: Some(3),
                half_open_max_probes: Some(2),
                ..Default::default()
            }),
            metadata: (0..32).map(|i| (format!("{i:k>64}"), "v".repeat(1024))).collect(),
            ..Default::default()
        };
        let circuit = circuits
            .register(request.clone())
            .await
            .unwrap()
            .into_inner()
            .circuit
            .unwrap();
        assert_eq!(circuit.metadata.len(), 32);
        let open = v1::OpenCircuitRequest {
            name: Some(largest.clone()),
            reason: Some("ö".repeat(512)),
            ..Default::default()
        };
        let circuit = circuits
            .open_circuit(open)
            .await
            .unwrap()
            .into_inner()
            .circuit
            .unwrap();
        let status = circuits.register(request).await.unwrap_err();
        assert_eq!(Refused::of(&status).reason, "ALREADY_REGISTERED");
        let attached = attached_circuit(&status);
        let without = v1::Circuit {
            metadata: Default::default(),
            ..circuit
        };
        assert_eq!(attached, without);

        // A mistake is not sent back in full.
        let long = "é".repeat(100_000);
        let configure = v1::ConfigureRequest {
            clear: vec![long.clone()],
            ..Default::default()
        };
        let status = circuits.configure(configure).await.unwrap_err();
        assert_eq!(Refused::of(&status), Refused::invalid("clear"));
        let subscribe = v1::SubscribeRequest {
            events: vec![long.clone()],
            ..Default::default()
        };
        let status = EventsClient::new(channel.clone())
            .subscribe(subscribe)
            .await
            .unwrap_err();
        assert_eq!(Refused::of(&status), Refused::invalid("events"));
        let subscribe = v1::SubscribeRequest {
            scopes: vec![String::new(), long],
            ..Default::default()
        };
        let status = EventsClient::new(channel).subscribe(subscribe).await.unwrap_err();
        assert_eq!(Refused::of(&status), Refused::invalid("scopes[1]"));
        let remove = v1::UnregisterRequest {
            name: Some(largest),
            reason: None,
        };
        assert!(circuits.unregister(remove).await.unwrap().into_inner().existed);
    }
}

/// No scope is different from every scope, and both can be listed.
async fn no_scope_can_be_asked_for(cluster: &Cluster) {
    for name in [name("a"), scoped("s", "a"), name("b"), scoped("t", "b")] {
        cluster.register(0, &name, v1::Policy::default()).await;
    }
    for (scope, expected) in [
        (
            None,
            vec![name("a"), name("b"), scoped("s", "a"), scoped("t", "b")],
        ),
        (Some(""), vec![name("a"), name("b")]),
        (Some("s"), vec![scoped("s", "a")]),
        (Some("nowhere"), vec![]),
    ] {
        for i in 0..3 {
            let request = v1::ListRequest {
                scope: scope.map(str::to_owned),
                ..Default::default()
            };
            let listed = cluster.circuits(i).list(request).await.unwrap().into_inner();
            let names: Vec<_> = listed
                .circuits
                .into_iter()
                .filter_map(|circuit| circuit.name)
                .collect();
            assert_eq!(names, expected, "{scope:?}");
        }
    }
}

fn attached_circuit(status: &Status) -> v1::Circuit {
    assert_eq!(status.code(), Code::AlreadyExists);
    let details = tonic_types::pb::Status::decode(status.details()).unwrap().details;
    let circuit = details
        .iter()
        .find(|detail| detail.type_url == "type.googleapis.com/brama.v1.Circuit");
    v1::Circuit::decode(&*circuit.unwrap().value).unwrap()
}

/// A connection that takes headers of at most so many bytes.
async fn connect(cluster: &Cluster, i: usize, headers: Option<u32>) -> Channel {
    let target = format!("http://{}", cluster.node(i).client_address());
    let endpoint = Endpoint::from_shared(target).unwrap();
    let endpoint = match headers {
        Some(bytes) => endpoint.http2_max_header_list_size(bytes),
        None => endpoint,
    };
    endpoint.connect().await.unwrap()
}
