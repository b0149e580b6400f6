//! [`Client`]: the [`Runtime`] on a unix socket.
//!
//! In: requests. Out: one gRPC call each over one HTTP/2 connection, which is made on first use and made again after
//! the runtime restarted (the request that meets the dead connection fails with `Unavailable`; the next one dials).
//! Keeps nothing else; retries nothing: the caller's next run is the retry.

use std::path::PathBuf;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tokio::sync::mpsc;
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::{Channel, Endpoint};

use crate::error::{Error, Kind, Result};
use crate::runtime::{Answer, Runtime};
use crate::v1;

/// How long an ordinary request may take. Starting a sandbox runs the CNI plugin and a shim: on a loaded flash disk that
/// is tens of seconds.
const REQUEST: Duration = Duration::from_secs(120);

/// containerd's own limit; tonic's default of 4 MiB is less than a list of a few hundred containers with annotations.
const MAX_MESSAGE: usize = 16 * 1024 * 1024;

macro_rules! runtime_method {
    ($name:literal) => {
        Method {
            name: $name,
            path: concat!("/runtime.v1.RuntimeService/", $name),
        }
    };
}

macro_rules! image_method {
    ($name:literal) => {
        Method {
            name: $name,
            path: concat!("/runtime.v1.ImageService/", $name),
        }
    };
}

#[derive(Clone, Copy)]
struct Method {
    name: &'static str,
    path: &'static str,
}

/// A connection to a runtime that answers on a unix socket.
#[derive(Clone, Debug)]
pub struct Client {
    channel: Channel,
}

impl Client {
    /// Does not connect yet. Must be called inside a tokio runtime.
    pub fn new(socket: impl Into<PathBuf>) -> Self {
        let socket = socket.into();
        let connector = tower::service_fn(move |_| {
            let socket = socket.clone();
            async move { UnixStream::connect(socket).await.map(TokioIo::new) }
        });
        // The authority is never resolved; `http` because with `https` tonic would look for TLS.
        let channel =
            Endpoint::from_static("http://localhost").connect_with_connector_lazy(connector);
        Self { channel }
    }

    async fn call<Q, R>(
        &self,
        method: Method,
        object: &str,
        request: Q,
        deadline: Option<Duration>,
    ) -> Result<R>
    where
        Q: prost::Message + Send + Sync + 'static,
        R: prost::Message + Default + Send + Sync + 'static,
    {
        let mut request = tonic::Request::new(request);
        if let Some(deadline) = deadline {
            // Travels as a header, so that containerd stops working on what nobody waits for. Later than our own limit,
            // because tonic applies it here too and answers `Cancelled`, which otherwise means a lost connection.
            request.set_timeout(deadline + Duration::from_secs(1));
        }
        let answer = async {
            let mut grpc = Grpc::new(self.channel.clone())
                .max_decoding_message_size(MAX_MESSAGE)
                .max_encoding_message_size(MAX_MESSAGE);
            grpc.ready().await.map_err(|error| {
                Error::new(method.name, object, Kind::Unavailable, chain(&error))
            })?;
            grpc.unary(
                request,
                PathAndQuery::from_static(method.path),
                tonic_prost::ProstCodec::default(),
            )
            .await
            .map(tonic::Response::into_inner)
            .map_err(|status| Error::from_status(method.name, object, &status))
        };
        match deadline {
            None => answer.await,
            Some(deadline) => tokio::time::timeout(deadline, answer)
                .await
                .unwrap_or_else(|_| {
                    Err(Error::new(
                        method.name,
                        object,
                        Kind::DeadlineExceeded,
                        format!("nothing within {} s", deadline.as_secs()),
                    ))
                }),
        }
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

fn missing(operation: &'static str, object: &str) -> Error {
    Error::new(
        operation,
        object,
        Kind::Failed,
        "the runtime answered without a status",
    )
}

fn seconds(duration: Duration) -> i64 {
    i64::try_from(duration.as_secs()).unwrap_or(i64::MAX)
}

impl Runtime for Client {
    fn version(&self) -> Answer<'_, v1::VersionResponse> {
        Box::pin(self.call(
            runtime_method!("Version"),
            "",
            v1::VersionRequest::default(),
            Some(REQUEST),
        ))
    }

    fn status(&self) -> Answer<'_, v1::StatusResponse> {
        Box::pin(self.call(
            runtime_method!("Status"),
            "",
            v1::StatusRequest { verbose: false },
            Some(REQUEST),
        ))
    }

    fn runtime_config(&self) -> Answer<'_, v1::RuntimeConfigResponse> {
        Box::pin(self.call(
            runtime_method!("RuntimeConfig"),
            "",
            v1::RuntimeConfigRequest {},
            Some(REQUEST),
        ))
    }

    fn update_runtime_config(&self, pod_cidr: String) -> Answer<'_, ()> {
        Box::pin(async move {
            let request = v1::UpdateRuntimeConfigRequest {
                runtime_config: Some(v1::RuntimeConfig {
                    network_config: Some(v1::NetworkConfig { pod_cidr }),
                }),
            };
            let method = runtime_method!("UpdateRuntimeConfig");
            let _: v1::UpdateRuntimeConfigResponse =
                self.call(method, "", request, Some(REQUEST)).await?;
            Ok(())
        })
    }

    fn run_pod_sandbox(
        &self,
        config: v1::PodSandboxConfig,
        runtime_handler: String,
    ) -> Answer<'_, String> {
        Box::pin(async move {
            let object = sandbox_name(&config);
            let request = v1::RunPodSandboxRequest {
                config: Some(config),
                runtime_handler,
            };
            // Twice the ordinary time: a CNI plugin has its own limits below this one.
            let deadline = Some(REQUEST * 2);
            let method = runtime_method!("RunPodSandbox");
            let answer: v1::RunPodSandboxResponse =
                self.call(method, &object, request, deadline).await?;
            Ok(answer.pod_sandbox_id)
        })
    }

    fn stop_pod_sandbox<'a>(&'a self, id: &'a str) -> Answer<'a, ()> {
        Box::pin(async move {
            let request = v1::StopPodSandboxRequest {
                pod_sandbox_id: id.to_owned(),
            };
            let method = runtime_method!("StopPodSandbox");
            let _: v1::StopPodSandboxResponse =
                self.call(method, id, request, Some(REQUEST)).await?;
            Ok(())
        })
    }

    fn remove_pod_sandbox<'a>(&'a self, id: &'a str) -> Answer<'a, ()> {
        Box::pin(async move {
            let request = v1::RemovePodSandboxRequest {
                pod_sandbox_id: id.to_owned(),
            };
            let method = runtime_method!("RemovePodSandbox");
            let _: v1::RemovePodSandboxResponse =
                self.call(method, id, request, Some(REQUEST)).await?;
            Ok(())
        })
    }

    fn pod_sandbox_status<'a>(&'a self, id: &'a str) -> Answer<'a, v1::PodSandboxStatusResponse> {
        Box::pin(self.call(
            runtime_method!("PodSandboxStatus"),
            id,
            v1::PodSandboxStatusRequest {
                pod_sandbox_id: id.to_owned(),
                verbose: false,
            },
            Some(REQUEST),
        ))
    }

    fn list_pod_sandbox(
        &self,
        filter: Option<v1::PodSandboxFilter>,
    ) -> Answer<'_, Vec<v1::PodSandbox>> {
        Box::pin(async move {
            let request = v1::ListPodSandboxRequest { filter };
            let method = runtime_method!("ListPodSandbox");
            let answer: v1::ListPodSandboxResponse =
                self.call(method, "", request, Some(REQUEST)).await?;
            Ok(answer.items)
        })
    }

    fn create_container(
        &self,
        sandbox: String,
        config: v1::ContainerConfig,
        sandbox_config: v1::PodSandboxConfig,
    ) -> Answer<'_, String> {
        Box::pin(async move {
            let name = config.metadata.as_ref().map_or("", |m| m.name.as_str());
            let object = format!("{name} in sandbox {sandbox}");
            let request = v1::CreateContainerRequest {
                pod_sandbox_id: sandbox,
                config: Some(config),
                sandbox_config: Some(sandbox_config),
            };
            let method = runtime_method!("CreateContainer");
            let answer: v1::CreateContainerResponse =
                self.call(method, &object, request, Some(REQUEST)).await?;
            Ok(answer.container_id)
        })
    }

    fn start_container<'a>(&'a self, id: &'a str) -> Answer<'a, ()> {
        Box::pin(async move {
            let request = v1::StartContainerRequest {
                container_id: id.to_owned(),
            };
            let method = runtime_method!("StartContainer");
            let _: v1::StartContainerResponse =
                self.call(method, id, request, Some(REQUEST)).await?;
            Ok(())
        })
    }

    fn stop_container<'a>(&'a self, id: &'a str, grace: Duration) -> Answer<'a, ()> {
        Box::pin(async move {
            let request = v1::StopContainerRequest {
                container_id: id.to_owned(),
                timeout: seconds(grace),
            };
            let method = runtime_method!("StopContainer");
            let deadline = Some(grace.saturating_add(REQUEST));
            let _: v1::StopContainerResponse = self.call(method, id, request, deadline).await?;
            Ok(())
        })
    }

    fn remove_container<'a>(&'a self, id: &'a str) -> Answer<'a, ()> {
        Box::pin(async move {
            let request = v1::RemoveContainerRequest {
                container_id: id.to_owned(),
            };
            let method = runtime_method!("RemoveContainer");
            let _: v1::RemoveContainerResponse =
                self.call(method, id, request, Some(REQUEST)).await?;
            Ok(())
        })
    }

    fn list_containers(
        &self,
        filter: Option<v1::ContainerFilter>,
    ) -> Answer<'_, Vec<v1::Container>> {
        Box::pin(async move {
            let request = v1::ListContainersRequest { filter };
            let method = runtime_method!("ListContainers");
            let answer: v1::ListContainersResponse =
                self.call(method, "", request, Some(REQUEST)).await?;
            Ok(answer.containers)
        })
    }

    fn container_status<'a>(&'a self, id: &'a str) -> Answer<'a, v1::ContainerStatus> {
        Box::pin(async move {
            let request = v1::ContainerStatusRequest {
                container_id: id.to_owned(),
                verbose: false,
            };
            let method = runtime_method!("ContainerStatus");
            let answer: v1::ContainerStatusResponse =
                self.call(method, id, request, Some(REQUEST)).await?;
            answer.status.ok_or_else(|| missing(method.name, id))
        })
    }

    fn update_container_resources(
        &self,
        id: String,
        resources: v1::LinuxContainerResources,
    ) -> Answer<'_, ()> {
        Box::pin(async move {
            let request = v1::UpdateContainerResourcesRequest {
                container_id: id.clone(),
                linux: Some(resources),
                annotations: std::collections::BTreeMap::new(),
            };
            let method = runtime_method!("UpdateContainerResources");
            let _: v1::UpdateContainerResourcesResponse =
                self.call(method, &id, request, Some(REQUEST)).await?;
            Ok(())
        })
    }

    fn reopen_container_log<'a>(&'a self, id: &'a str) -> Answer<'a, ()> {
        Box::pin(async move {
            let request = v1::ReopenContainerLogRequest {
                container_id: id.to_owned(),
            };
            let method = runtime_method!("ReopenContainerLog");
            let _: v1::ReopenContainerLogResponse =
                self.call(method, id, request, Some(REQUEST)).await?;
            Ok(())
        })
    }

    fn exec_sync(
        &self,
        id: String,
        command: Vec<String>,
        timeout: Option<Duration>,
    ) -> Answer<'_, v1::ExecSyncResponse> {
        Box::pin(async move {
            let request = v1::ExecSyncRequest {
                container_id: id.clone(),
                cmd: command,
                timeout: timeout.map_or(0, seconds),
            };
            let deadline = timeout.map(|timeout| timeout.saturating_add(REQUEST));
            self.call(runtime_method!("ExecSync"), &id, request, deadline)
                .await
        })
    }

    fn exec(&self, request: v1::ExecRequest) -> Answer<'_, String> {
        Box::pin(async move {
            let object = request.container_id.clone();
            let method = runtime_method!("Exec");
            let answer: v1::ExecResponse =
                self.call(method, &object, request, Some(REQUEST)).await?;
            Ok(answer.url)
        })
    }

    fn attach(&self, request: v1::AttachRequest) -> Answer<'_, String> {
        Box::pin(async move {
            let object = request.container_id.clone();
            let method = runtime_method!("Attach");
            let answer: v1::AttachResponse =
                self.call(method, &object, request, Some(REQUEST)).await?;
            Ok(answer.url)
        })
    }

    fn port_forward(&self, sandbox: String, ports: Vec<i32>) -> Answer<'_, String> {
        Box::pin(async move {
            let request = v1::PortForwardRequest {
                pod_sandbox_id: sandbox.clone(),
                port: ports,
            };
            let method = runtime_method!("PortForward");
            let answer: v1::PortForwardResponse =
                self.call(method, &sandbox, request, Some(REQUEST)).await?;
            Ok(answer.url)
        })
    }

    fn container_stats<'a>(&'a self, id: &'a str) -> Answer<'a, Option<v1::ContainerStats>> {
        Box::pin(async move {
            let request = v1::ContainerStatsRequest {
                container_id: id.to_owned(),
            };
            let method = runtime_method!("ContainerStats");
            let answer: v1::ContainerStatsResponse =
                self.call(method, id, request, Some(REQUEST)).await?;
            Ok(answer.stats)
        })
    }

    fn list_container_stats(
        &self,
        filter: Option<v1::ContainerStatsFilter>,
    ) -> Answer<'_, Vec<v1::ContainerStats>> {
        Box::pin(async move {
            let request = v1::ListContainerStatsRequest { filter };
            let method = runtime_method!("ListContainerStats");
            let answer: v1::ListContainerStatsResponse =
                self.call(method, "", request, Some(REQUEST)).await?;
            Ok(answer.stats)
        })
    }

    fn container_events(&self, sink: mpsc::Sender<v1::ContainerEventResponse>) -> Answer<'_, ()> {
        Box::pin(async move {
            let method = runtime_method!("GetContainerEvents");
            let failed = |status: &tonic::Status| Error::from_status(method.name, "", status);
            let mut grpc = Grpc::new(self.channel.clone()).max_decoding_message_size(MAX_MESSAGE);
            grpc.ready()
                .await
                .map_err(|error| Error::new(method.name, "", Kind::Unavailable, chain(&error)))?;
            let codec = tonic_prost::ProstCodec::<v1::GetEventsRequest, _>::default();
            let mut events = grpc
                .server_streaming(
                    tonic::Request::new(v1::GetEventsRequest {}),
                    PathAndQuery::from_static(method.path),
                    codec,
                )
                .await
                .map_err(|status| failed(&status))?
                .into_inner();
            loop {
                match events.message().await {
                    Ok(Some(event)) => {
                        if sink.send(event).await.is_err() {
                            return Ok(());
                        }
                    }
                    Ok(None) => {
                        let text = "the runtime closed the event stream";
                        return Err(Error::new(method.name, "", Kind::Unavailable, text));
                    }
                    Err(status) => return Err(failed(&status)),
                }
            }
        })
    }

    fn list_images(&self) -> Answer<'_, Vec<v1::Image>> {
        Box::pin(async move {
            let method = image_method!("ListImages");
            let request = v1::ListImagesRequest { filter: None };
            let answer: v1::ListImagesResponse =
                self.call(method, "", request, Some(REQUEST)).await?;
            Ok(answer.images)
        })
    }

    fn image_status(&self, image: v1::ImageSpec) -> Answer<'_, Option<v1::Image>> {
        Box::pin(async move {
            let object = image.image.clone();
            let request = v1::ImageStatusRequest {
                image: Some(image),
                verbose: false,
            };
            let method = image_method!("ImageStatus");
            let answer: v1::ImageStatusResponse =
                self.call(method, &object, request, Some(REQUEST)).await?;
            Ok(answer.image)
        })
    }

    fn pull_image(
        &self,
        image: v1::ImageSpec,
        auth: Option<v1::AuthConfig>,
        sandbox_config: Option<v1::PodSandboxConfig>,
    ) -> Answer<'_, String> {
        Box::pin(async move {
            let object = image.image.clone();
            let request = v1::PullImageRequest {
                image: Some(image),
                auth,
                sandbox_config,
            };
            let method = image_method!("PullImage");
            let answer: v1::PullImageResponse = self.call(method, &object, request, None).await?;
            Ok(answer.image_ref)
        })
    }

    fn remove_image(&self, image: v1::ImageSpec) -> Answer<'_, ()> {
        Box::pin(async move {
            let object = image.image.clone();
            let request = v1::RemoveImageRequest { image: Some(image) };
            let method = image_method!("RemoveImage");
            let _: v1::RemoveImageResponse =
                self.call(method, &object, request, Some(REQUEST)).await?;
            Ok(())
        })
    }

    fn image_fs_info(&self) -> Answer<'_, v1::ImageFsInfoResponse> {
        Box::pin(self.call(
            image_method!("ImageFsInfo"),
            "",
            v1::ImageFsInfoRequest {},
            Some(REQUEST),
        ))
    }
}

fn sandbox_name(config: &v1::PodSandboxConfig) -> String {
    match &config.metadata {
        Some(m) => format!("{}/{} attempt {}", m.namespace, m.name, m.attempt),
        None => String::new(),
    }
}

#[cfg(test)]
mod tests;
