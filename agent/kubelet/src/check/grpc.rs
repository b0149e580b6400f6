//! The standard gRPC health check (`grpc.health.v1`), plaintext.

use kedge_pods::probe::Answer;
use tonic::Code;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::Endpoint;

/// `HealthCheckRequest`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Request {
    #[prost(string, tag = "1")]
    pub service: String,
}

/// `HealthCheckResponse`.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct Response {
    #[prost(enumeration = "Health", tag = "1")]
    pub status: i32,
}

/// `ServingStatus`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum Health {
    Unknown = 0,
    Serving = 1,
    NotServing = 2,
    ServiceUnknown = 3,
}

/// Asks once. The caller limits the time.
pub async fn probe(host: &str, port: u16, service: &str) -> Answer {
    let authority = if host.contains(':') {
        format!("[{host}]:{port}")
    } else {
        format!("{host}:{port}")
    };
    match ask(&authority, service).await {
        Ok(status) if status == Health::Serving as i32 => Answer::Success,
        Ok(status) => {
            let word = Health::try_from(status).map_or("UNKNOWN", |s| match s {
                Health::Unknown => "UNKNOWN",
                Health::Serving => "SERVING",
                Health::NotServing => "NOT_SERVING",
                Health::ServiceUnknown => "SERVICE_UNKNOWN",
            });
            Answer::Failure(format!("service unhealthy (responded with \"{word}\")"))
        }
        Err(text) => Answer::Failure(text),
    }
}

async fn ask(authority: &str, service: &str) -> Result<i32, String> {
    let endpoint = Endpoint::from_shared(format!("http://{authority}"))
        .map_err(|error| format!("address {authority}: {error}"))?;
    let channel = endpoint
        .connect()
        .await
        .map_err(|error| format!("connect to {authority}: {error}"))?;
    let mut grpc = tonic::client::Grpc::new(channel);
    grpc.ready()
        .await
        .map_err(|error| format!("connect to {authority}: {error}"))?;
    let request = tonic::Request::new(Request {
        service: service.to_owned(),
    });
    let path = PathAndQuery::from_static("/grpc.health.v1.Health/Check");
    let codec = tonic_prost::ProstCodec::<Request, Response>::default();
    match grpc.unary(request, path, codec).await {
        Ok(answer) => Ok(answer.into_inner().status),
        Err(status) if status.code() == Code::Unimplemented => {
            Err("this server does not implement the grpc health protocol".into())
        }
        Err(status) => Err(format!("health rpc failed: {}", status.message())),
    }
}
