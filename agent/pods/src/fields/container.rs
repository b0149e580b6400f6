//! Rows of Container, EphemeralContainer and what they hold.

use k8s_openapi::api::core::v1::{
    Container, EnvFromSource, EnvVar, EphemeralContainer, HTTPGetAction, Lifecycle,
    LifecycleHandler, Probe,
};

use super::pod_spec::options;
use super::{Refusal, Row};
use crate::pod::as_container;

pub(super) const ROWS: &[&[Row]] = &[
    CONTAINER,
    EPHEMERAL,
    SECURITY,
    CAPABILITIES,
    PORT,
    RESOURCES,
    MOUNT,
    ENV,
    ENV_SOURCE,
    ENV_FROM,
    CONFIG_MAP_ENV,
    SECRET_ENV,
    CONFIG_MAP_KEY,
    SECRET_KEY,
    FIELD,
    RESOURCE_FIELD,
    PROBE,
    LIFECYCLE,
    HANDLER,
    EXEC,
    HTTP,
    HEADER,
    TCP,
    GRPC,
    SLEEP,
    RESIZE,
];

pub(super) fn check(value: &Container, at: &str, out: &mut Vec<Refusal>) {
    container(value, at, out);
    inside(value, at, out);
}

pub(super) fn check_ephemeral(value: &EphemeralContainer, at: &str, out: &mut Vec<Refusal>) {
    ephemeral(value, at, out);
    inside(&as_container(value), at, out);
}

fn inside(c: &Container, at: &str, out: &mut Vec<Refusal>) {
    if let Some(s) = &c.security_context {
        let at = format!("{at}.securityContext");
        security(s, &at, out);
        if let Some(caps) = &s.capabilities {
            capabilities(caps, &format!("{at}.capabilities"), out);
        }
        options(
            s.se_linux_options.as_ref(),
            s.seccomp_profile.as_ref(),
            s.app_armor_profile.as_ref(),
            &at,
            out,
        );
    }
    for (i, p) in c.ports.iter().flatten().enumerate() {
        port(p, &format!("{at}.ports[{i}]"), out);
    }
    if let Some(r) = &c.resources {
        resources(r, &format!("{at}.resources"), out);
    }
    for (i, r) in c.resize_policy.iter().flatten().enumerate() {
        resize(r, &format!("{at}.resizePolicy[{i}]"), out);
    }
    for (i, m) in c.volume_mounts.iter().flatten().enumerate() {
        mount(m, &format!("{at}.volumeMounts[{i}]"), out);
    }
    for (i, e) in c.env.iter().flatten().enumerate() {
        of_env(e, &format!("{at}.env[{i}]"), out);
    }
    for (i, e) in c.env_from.iter().flatten().enumerate() {
        of_env_from(e, &format!("{at}.envFrom[{i}]"), out);
    }
    for (name, p) in [
        ("livenessProbe", &c.liveness_probe),
        ("readinessProbe", &c.readiness_probe),
        ("startupProbe", &c.startup_probe),
    ] {
        if let Some(p) = p {
            of_probe(p, &format!("{at}.{name}"), out);
        }
    }
    if let Some(l) = &c.lifecycle {
        of_lifecycle(l, &format!("{at}.lifecycle"), out);
    }
}

fn of_env(e: &EnvVar, at: &str, out: &mut Vec<Refusal>) {
    env(e, at, out);
    let Some(from) = &e.value_from else {
        return;
    };
    let at = format!("{at}.valueFrom");
    env_source(from, &at, out);
    if let Some(r) = &from.config_map_key_ref {
        config_map_key(r, &format!("{at}.configMapKeyRef"), out);
    }
    if let Some(r) = &from.secret_key_ref {
        secret_key(r, &format!("{at}.secretKeyRef"), out);
    }
    if let Some(r) = &from.field_ref {
        field(r, &format!("{at}.fieldRef"), out);
    }
    if let Some(r) = &from.resource_field_ref {
        resource_field(r, &format!("{at}.resourceFieldRef"), out);
    }
}

fn of_env_from(e: &EnvFromSource, at: &str, out: &mut Vec<Refusal>) {
    env_from(e, at, out);
    if let Some(r) = &e.config_map_ref {
        config_map_env(r, &format!("{at}.configMapRef"), out);
    }
    if let Some(r) = &e.secret_ref {
        secret_env(r, &format!("{at}.secretRef"), out);
    }
}

fn of_probe(p: &Probe, at: &str, out: &mut Vec<Refusal>) {
    probe(p, at, out);
    if let Some(e) = &p.exec {
        exec(e, &format!("{at}.exec"), out);
    }
    if let Some(g) = &p.http_get {
        of_http(g, &format!("{at}.httpGet"), out);
    }
    if let Some(t) = &p.tcp_socket {
        tcp(t, &format!("{at}.tcpSocket"), out);
    }
    if let Some(g) = &p.grpc {
        grpc(g, &format!("{at}.grpc"), out);
    }
}

fn of_http(g: &HTTPGetAction, at: &str, out: &mut Vec<Refusal>) {
    http(g, at, out);
    for (i, h) in g.http_headers.iter().flatten().enumerate() {
        header(h, &format!("{at}.httpHeaders[{i}]"), out);
    }
}

fn of_lifecycle(l: &Lifecycle, at: &str, out: &mut Vec<Refusal>) {
    lifecycle(l, at, out);
    for (name, h) in [("postStart", &l.post_start), ("preStop", &l.pre_stop)] {
        if let Some(h) = h {
            of_handler(h, &format!("{at}.{name}"), out);
        }
    }
}

fn of_handler(h: &LifecycleHandler, at: &str, out: &mut Vec<Refusal>) {
    handler(h, at, out);
    if let Some(e) = &h.exec {
        exec(e, &format!("{at}.exec"), out);
    }
    if let Some(g) = &h.http_get {
        of_http(g, &format!("{at}.httpGet"), out);
    }
    if let Some(s) = &h.sleep {
        sleep(s, &format!("{at}.sleep"), out);
    }
}

rows!(container, CONTAINER: Container {
    args = yes "container_fields_reach_the_runtime";
    command = yes "container_fields_reach_the_runtime";
    env = yes "environment_comes_from_all_sources";
    env_from = yes "environment_comes_from_all_sources";
    image = yes "a_changed_image_restarts_regardless_of_policy";
    image_pull_policy = yes "image_pull_policy_is_taken_from_the_pod";
    lifecycle = yes "pre_stop_runs_within_the_grace";
    liveness_probe = yes "a_failed_liveness_probe_kills_with_the_probes_grace_and_restarts";
    name = yes "container_fields_reach_the_runtime";
    ports = yes "ports_with_a_host_port_become_mappings";
    readiness_probe = yes "readiness_changes_only_after_its_thresholds";
    resize_policy = yes "a_resize_restarts_where_its_policy_says_so";
    resources = yes "container_resources_are_kernel_numbers";
    restart_policy = part "init_containers_run_one_at_a_time_and_a_sidecar_stays",
        "a restart policy other than Always of an init container is",
        |v: &Option<String>| v.as_deref().is_none_or(|p| p == "Always");
    restart_policy_rules = no "restart rules are";
    security_context = yes "security_reaches_sandbox_and_containers";
    startup_probe = yes "startup_gates_the_other_probes";
    stdin = yes "container_fields_reach_the_runtime";
    stdin_once = yes "container_fields_reach_the_runtime";
    termination_message_path = yes "container_fields_reach_the_runtime";
    termination_message_policy = yes "container_fields_reach_the_runtime";
    tty = yes "container_fields_reach_the_runtime";
    volume_devices = no "block devices of volumes are";
    volume_mounts = yes "mounts_follow_the_container";
    working_dir = yes "container_fields_reach_the_runtime";
});

rows!(ephemeral, EPHEMERAL: EphemeralContainer {
    args = yes "an_ephemeral_container_enters_its_target";
    command = yes "an_ephemeral_container_enters_its_target";
    env = yes "an_ephemeral_container_enters_its_target";
    env_from = yes "an_ephemeral_container_enters_its_target";
    image = yes "ephemeral_containers_start_once_and_never_again";
    image_pull_policy = yes "ephemeral_containers_start_once_and_never_again";
    lifecycle = no "lifecycle hooks of ephemeral containers are";
    liveness_probe = no "probes of ephemeral containers are";
    name = yes "ephemeral_containers_start_once_and_never_again";
    ports = no "ports of ephemeral containers are";
    readiness_probe = no "probes of ephemeral containers are";
    resize_policy = no "resize policies of ephemeral containers are";
    resources = no "resources of ephemeral containers are";
    restart_policy = no "restart policies of ephemeral containers are";
    restart_policy_rules = no "restart rules are";
    security_context = yes "an_ephemeral_container_enters_its_target";
    startup_probe = no "probes of ephemeral containers are";
    stdin = yes "an_ephemeral_container_enters_its_target";
    stdin_once = yes "an_ephemeral_container_enters_its_target";
    target_container_name = yes "an_ephemeral_container_waits_for_its_target";
    termination_message_path = yes "an_ephemeral_container_enters_its_target";
    termination_message_policy = yes "an_ephemeral_container_enters_its_target";
    tty = yes "an_ephemeral_container_enters_its_target";
    volume_devices = no "block devices of volumes are";
    volume_mounts = yes "an_ephemeral_container_enters_its_target";
    working_dir = yes "an_ephemeral_container_enters_its_target";
});

rows!(security, SECURITY: SecurityContext {
    allow_privilege_escalation = yes "security_reaches_sandbox_and_containers";
    app_armor_profile = yes "security_reaches_sandbox_and_containers";
    capabilities = yes "security_reaches_sandbox_and_containers";
    privileged = yes "security_reaches_sandbox_and_containers";
    proc_mount = yes "security_reaches_sandbox_and_containers";
    read_only_root_filesystem = yes "security_reaches_sandbox_and_containers";
    run_as_group = yes "security_reaches_sandbox_and_containers";
    run_as_non_root = yes "run_as_non_root_is_verified";
    run_as_user = yes "security_reaches_sandbox_and_containers";
    se_linux_options = yes "security_reaches_sandbox_and_containers";
    seccomp_profile = yes "security_reaches_sandbox_and_containers";
    windows_options = no "Windows options are";
});

rows!(capabilities, CAPABILITIES: Capabilities {
    add = yes "security_reaches_sandbox_and_containers";
    drop = yes "security_reaches_sandbox_and_containers";
});

rows!(port, PORT: ContainerPort {
    container_port = yes "ports_with_a_host_port_become_mappings";
    host_ip = yes "ports_with_a_host_port_become_mappings";
    host_port = yes "ports_with_a_host_port_become_mappings";
    name = yes "http_probe_resolves_named_port_scheme_and_headers";
    protocol = yes "ports_with_a_host_port_become_mappings";
});

rows!(resources, RESOURCES: ResourceRequirements {
    claims = no "dynamic resource claims are";
    limits = yes "container_resources_are_kernel_numbers";
    requests = yes "container_resources_are_kernel_numbers";
});

rows!(resize, RESIZE: ContainerResizePolicy {
    resource_name = yes "a_resize_restarts_where_its_policy_says_so";
    restart_policy = yes "a_resize_restarts_where_its_policy_says_so";
});

rows!(mount, MOUNT: VolumeMount {
    bind_mount_options = no "bind mount options are";
    mount_path = yes "mounts_follow_the_container";
    mount_propagation = yes "mounts_follow_the_container";
    name = yes "mounts_follow_the_container";
    read_only = yes "mounts_follow_the_container";
    recursive_read_only = yes "recursive_read_only_needs_the_runtime";
    sub_path = yes "sub_paths_stay_inside_the_volume";
    sub_path_expr = yes "sub_paths_stay_inside_the_volume";
});

rows!(env, ENV: EnvVar {
    name = yes "environment_comes_from_all_sources";
    value = yes "environment_comes_from_all_sources";
    value_from = yes "environment_comes_from_all_sources";
});

rows!(env_source, ENV_SOURCE: EnvVarSource {
    config_map_key_ref = yes "environment_comes_from_all_sources";
    field_ref = yes "downward_fields_have_their_values";
    file_key_ref = no "environment files are";
    resource_field_ref = yes "downward_resources_have_divisors_and_defaults";
    secret_key_ref = yes "environment_comes_from_all_sources";
});

rows!(env_from, ENV_FROM: EnvFromSource {
    config_map_ref = yes "environment_comes_from_all_sources";
    prefix = yes "environment_comes_from_all_sources";
    secret_ref = yes "environment_comes_from_all_sources";
});

rows!(config_map_env, CONFIG_MAP_ENV: ConfigMapEnvSource {
    name = yes "environment_comes_from_all_sources";
    optional = yes "missing_references_are_named_unless_optional";
});

rows!(secret_env, SECRET_ENV: SecretEnvSource {
    name = yes "environment_comes_from_all_sources";
    optional = yes "missing_references_are_named_unless_optional";
});

rows!(config_map_key, CONFIG_MAP_KEY: ConfigMapKeySelector {
    key = yes "environment_comes_from_all_sources";
    name = yes "environment_comes_from_all_sources";
    optional = yes "missing_references_are_named_unless_optional";
});

rows!(secret_key, SECRET_KEY: SecretKeySelector {
    key = yes "environment_comes_from_all_sources";
    name = yes "environment_comes_from_all_sources";
    optional = yes "missing_references_are_named_unless_optional";
});

rows!(field, FIELD: ObjectFieldSelector {
    api_version = part "values_that_are_not_supported_are_named", "an apiVersion other than v1 is",
        |v: &Option<String>| v.as_deref().is_none_or(|v| v == "v1" || v.is_empty());
    field_path = yes "downward_fields_have_their_values";
});

rows!(resource_field, RESOURCE_FIELD: ResourceFieldSelector {
    container_name = yes "downward_resources_have_divisors_and_defaults";
    divisor = yes "downward_resources_have_divisors_and_defaults";
    resource = yes "downward_resources_have_divisors_and_defaults";
});

rows!(probe, PROBE: Probe {
    exec = yes "tcp_grpc_and_exec_probes_resolve";
    failure_threshold = yes "readiness_changes_only_after_its_thresholds";
    grpc = yes "tcp_grpc_and_exec_probes_resolve";
    http_get = yes "http_probe_resolves_named_port_scheme_and_headers";
    initial_delay_seconds = yes "initial_delay_period_and_wake_up_follow_the_probe";
    period_seconds = yes "initial_delay_period_and_wake_up_follow_the_probe";
    success_threshold = yes "readiness_changes_only_after_its_thresholds";
    tcp_socket = yes "tcp_grpc_and_exec_probes_resolve";
    termination_grace_period_seconds = yes "a_failed_liveness_probe_kills_with_the_probes_grace_and_restarts";
    timeout_seconds = yes "a_run_carries_the_probes_timeout";
});

rows!(lifecycle, LIFECYCLE: Lifecycle {
    post_start = yes "a_post_start_hook_blocks_the_next_container_and_its_failure_kills";
    pre_stop = yes "pre_stop_runs_within_the_grace";
    stop_signal = yes "container_fields_reach_the_runtime";
});

rows!(handler, HANDLER: LifecycleHandler {
    exec = yes "lifecycle_hooks_resolve";
    http_get = yes "lifecycle_hooks_resolve";
    sleep = yes "lifecycle_hooks_resolve";
    tcp_socket = no "TCP sockets as lifecycle hooks are";
});

rows!(exec, EXEC: ExecAction {
    command = yes "tcp_grpc_and_exec_probes_resolve";
});

rows!(http, HTTP: HTTPGetAction {
    host = yes "http_probe_resolves_named_port_scheme_and_headers";
    http_headers = yes "http_probe_resolves_named_port_scheme_and_headers";
    path = yes "http_probe_resolves_named_port_scheme_and_headers";
    port = yes "http_probe_resolves_named_port_scheme_and_headers";
    protocol = part "values_that_are_not_supported_are_named", "a wire protocol other than HTTP/1.1 is",
        |v: &Option<String>| v.as_deref().is_none_or(|p| p.is_empty() || p == "HTTP/1.1");
    scheme = yes "http_probe_resolves_named_port_scheme_and_headers";
});

rows!(header, HEADER: HTTPHeader {
    name = yes "http_probe_resolves_named_port_scheme_and_headers";
    value = yes "http_probe_resolves_named_port_scheme_and_headers";
});

rows!(tcp, TCP: TCPSocketAction {
    host = yes "tcp_grpc_and_exec_probes_resolve";
    port = yes "tcp_grpc_and_exec_probes_resolve";
});

rows!(grpc, GRPC: GRPCAction {
    mode = part "values_that_are_not_supported_are_named", "a gRPC probe over TLS is",
        |v: &Option<String>| v.as_deref().is_none_or(|m| m.is_empty() || m == "Plaintext");
    port = yes "tcp_grpc_and_exec_probes_resolve";
    service = yes "tcp_grpc_and_exec_probes_resolve";
});

rows!(sleep, SLEEP: SleepAction {
    seconds = yes "lifecycle_hooks_resolve";
});
