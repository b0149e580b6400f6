//! Rows of PodSpec and what only a pod has.

use k8s_openapi::api::core::v1::PodSpec;

use super::{Refusal, Row};

pub(super) const ROWS: &[&[Row]] = &[
    SPEC,
    SECURITY,
    DNS,
    DNS_OPTION,
    HOST_ALIAS,
    OS,
    GATE,
    SYSCTL,
    SELINUX,
    SECCOMP,
    APPARMOR,
    TOLERATION,
    AFFINITY,
    NODE_AFFINITY,
    PULL_SECRET,
];

pub(super) fn check(value: &PodSpec, at: &str, out: &mut Vec<Refusal>) {
    spec(value, at, out);
    if let Some(context) = &value.security_context {
        let at = format!("{at}.securityContext");
        security(context, &at, out);
        for (i, s) in context.sysctls.iter().flatten().enumerate() {
            sysctl(s, &format!("{at}.sysctls[{i}]"), out);
        }
        options(
            context.se_linux_options.as_ref(),
            context.seccomp_profile.as_ref(),
            context.app_armor_profile.as_ref(),
            &at,
            out,
        );
    }
    if let Some(config) = &value.dns_config {
        let at = format!("{at}.dnsConfig");
        dns(config, &at, out);
        for (i, o) in config.options.iter().flatten().enumerate() {
            dns_option(o, &format!("{at}.options[{i}]"), out);
        }
    }
    for (i, a) in value.host_aliases.iter().flatten().enumerate() {
        host_alias(a, &format!("{at}.hostAliases[{i}]"), out);
    }
    for (i, g) in value.readiness_gates.iter().flatten().enumerate() {
        gate(g, &format!("{at}.readinessGates[{i}]"), out);
    }
    for (i, t) in value.tolerations.iter().flatten().enumerate() {
        toleration(t, &format!("{at}.tolerations[{i}]"), out);
    }
    for (i, s) in value.image_pull_secrets.iter().flatten().enumerate() {
        pull_secret(s, &format!("{at}.imagePullSecrets[{i}]"), out);
    }
    if let Some(o) = &value.os {
        os(o, &format!("{at}.os"), out);
    }
    if let Some(a) = &value.affinity {
        affinity(a, &format!("{at}.affinity"), out);
        if let Some(n) = &a.node_affinity {
            node_affinity(n, &format!("{at}.affinity.nodeAffinity"), out);
        }
    }
}

/// SELinux, seccomp and AppArmor, of a pod or a container.
pub(super) fn options(
    s: Option<&k8s_openapi::api::core::v1::SELinuxOptions>,
    c: Option<&k8s_openapi::api::core::v1::SeccompProfile>,
    a: Option<&k8s_openapi::api::core::v1::AppArmorProfile>,
    at: &str,
    out: &mut Vec<Refusal>,
) {
    if let Some(s) = s {
        selinux(s, &format!("{at}.seLinuxOptions"), out);
    }
    if let Some(c) = c {
        seccomp(c, &format!("{at}.seccompProfile"), out);
    }
    if let Some(a) = a {
        apparmor(a, &format!("{at}.appArmorProfile"), out);
    }
}

rows!(spec, SPEC: PodSpec {
    active_deadline_seconds = yes "active_deadline_ends_the_pod";
    affinity = yes "the_node_must_match_selector_affinity_and_name";
    automount_service_account_token = yes "scheduling_fields_are_kept_in_the_mirror_pod";
    containers = yes "a_pod_starts_volumes_then_sandbox_then_containers_in_order";
    dns_config = yes "dns_config_is_merged";
    dns_policy = yes "dns_policy_decides_the_base";
    enable_service_links = yes "service_variables_follow_the_links";
    ephemeral_containers = yes "ephemeral_containers_start_once_and_never_again";
    eviction_responders = yes "scheduling_fields_are_kept_in_the_mirror_pod";
    host_aliases = yes "hosts_file_names_pod_subdomain_and_aliases";
    host_ipc = yes "namespaces_follow_the_pod";
    host_network = yes "a_host_network_pod_is_usable_without_a_sandbox_address";
    host_pid = yes "namespaces_follow_the_pod";
    host_users = part "an_unsupported_field_is_named",
        "pods in a user namespace of their own are", |v: &Option<bool>| *v != Some(false);
    hostname = yes "hosts_file_names_pod_subdomain_and_aliases";
    hostname_override = yes "host_names_are_cut_qualified_and_overridden";
    image_pull_secrets = yes "every_kind_of_reference_is_found";
    init_containers = yes "init_containers_run_one_at_a_time_and_a_sidecar_stays";
    node_name = yes "the_node_must_match_selector_affinity_and_name";
    node_selector = yes "the_node_must_match_selector_affinity_and_name";
    os = yes "os_groups_apparmor_pressure_and_shutdown_are_judged";
    overhead = yes "overhead_counts_for_admission";
    preemption_policy = yes "scheduling_fields_are_kept_in_the_mirror_pod";
    priority = yes "oom_score_follows_class_priority_and_memory";
    priority_class_name = yes "scheduling_fields_are_kept_in_the_mirror_pod";
    readiness_gates = yes "readiness_gates_and_foreign_conditions_count";
    resource_claims = no "dynamic resource claims are";
    resources = no "resources of the pod as a whole are";
    restart_policy = yes "restart_policy_decides_after_an_exit";
    runtime_class_name = yes "a_runtime_class_gives_the_handler";
    scheduler_name = yes "scheduling_fields_are_kept_in_the_mirror_pod";
    scheduling_gates = yes "scheduling_fields_are_kept_in_the_mirror_pod";
    scheduling_group = yes "scheduling_fields_are_kept_in_the_mirror_pod";
    security_context = yes "security_reaches_sandbox_and_containers";
    service_account = yes "the_older_service_account_field_counts";
    service_account_name = yes "every_kind_of_reference_is_found";
    set_hostname_as_fqdn = yes "host_names_are_cut_qualified_and_overridden";
    share_process_namespace = yes "namespaces_follow_the_pod";
    subdomain = yes "hosts_file_names_pod_subdomain_and_aliases";
    termination_grace_period_seconds = yes "a_pod_gone_from_the_configuration_is_ended_and_forgotten";
    tolerations = yes "no_execute_taints_must_be_tolerated_except_by_static_pods";
    topology_spread_constraints = yes "scheduling_fields_are_kept_in_the_mirror_pod";
    volumes = yes "volumes_become_plans";
});

rows!(security, SECURITY: PodSecurityContext {
    app_armor_profile = yes "security_reaches_sandbox_and_containers";
    fs_group = yes "fs_group_owns_what_the_node_makes";
    fs_group_change_policy = yes "fs_group_owns_what_the_node_makes";
    run_as_group = yes "security_reaches_sandbox_and_containers";
    run_as_non_root = yes "run_as_non_root_is_verified";
    run_as_user = yes "security_reaches_sandbox_and_containers";
    se_linux_change_policy = no "a policy of changing SELinux labels is";
    se_linux_options = yes "security_reaches_sandbox_and_containers";
    seccomp_profile = yes "security_reaches_sandbox_and_containers";
    supplemental_groups = yes "security_reaches_sandbox_and_containers";
    supplemental_groups_policy = yes "security_reaches_sandbox_and_containers";
    sysctls = yes "sysctls_must_be_safe_or_allowed";
    windows_options = no "Windows options are";
});

rows!(dns, DNS: PodDNSConfig {
    nameservers = yes "dns_config_is_merged";
    options = yes "dns_config_is_merged";
    searches = yes "dns_config_is_merged";
});

rows!(dns_option, DNS_OPTION: PodDNSConfigOption {
    name = yes "dns_config_is_merged";
    value = yes "dns_config_is_merged";
});

rows!(host_alias, HOST_ALIAS: HostAlias {
    hostnames = yes "hosts_file_names_pod_subdomain_and_aliases";
    ip = yes "hosts_file_names_pod_subdomain_and_aliases";
});

rows!(os, OS: PodOS {
    name = yes "os_groups_apparmor_pressure_and_shutdown_are_judged";
});

rows!(gate, GATE: PodReadinessGate {
    condition_type = yes "readiness_gates_and_foreign_conditions_count";
});

rows!(sysctl, SYSCTL: Sysctl {
    name = yes "sysctls_must_be_safe_or_allowed";
    value = yes "security_reaches_sandbox_and_containers";
});

rows!(selinux, SELINUX: SELinuxOptions {
    level = yes "security_reaches_sandbox_and_containers";
    role = yes "security_reaches_sandbox_and_containers";
    type_ = yes "security_reaches_sandbox_and_containers";
    user = yes "security_reaches_sandbox_and_containers";
});

rows!(seccomp, SECCOMP: SeccompProfile {
    localhost_profile = yes "security_reaches_sandbox_and_containers";
    type_ = yes "security_reaches_sandbox_and_containers";
});

rows!(apparmor, APPARMOR: AppArmorProfile {
    localhost_profile = yes "security_reaches_sandbox_and_containers";
    type_ = yes "security_reaches_sandbox_and_containers";
});

rows!(toleration, TOLERATION: Toleration {
    effect = yes "tolerations_accept_taints";
    key = yes "tolerations_accept_taints";
    operator = yes "tolerations_accept_taints";
    // How long is the taint controller's to count.
    toleration_seconds = yes "scheduling_fields_are_kept_in_the_mirror_pod";
    value = yes "tolerations_accept_taints";
});

rows!(affinity, AFFINITY: Affinity {
    node_affinity = yes "the_node_must_match_selector_affinity_and_name";
    pod_affinity = yes "scheduling_fields_are_kept_in_the_mirror_pod";
    pod_anti_affinity = yes "scheduling_fields_are_kept_in_the_mirror_pod";
});

rows!(node_affinity, NODE_AFFINITY: NodeAffinity {
    preferred_during_scheduling_ignored_during_execution = yes "scheduling_fields_are_kept_in_the_mirror_pod";
    required_during_scheduling_ignored_during_execution = yes "node_selector_and_affinity_match_labels";
});

rows!(pull_secret, PULL_SECRET: LocalObjectReference {
    name = yes "every_kind_of_reference_is_found";
});
