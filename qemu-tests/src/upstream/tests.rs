//! The table and the cache; the builds themselves take minutes and are run by `cargo rig up`.

use tempfile::TempDir;

use super::*;

#[test]
fn every_program_of_the_lists_is_in_the_table_and_its_module_exists() {
    for name in [
        CONTROL_PLANE,
        PRODUCT,
        NODE_SOFTWARE,
        POD_IMAGES,
        JUDGES,
        CONSUMERS,
        crate::testimages::UPSTREAM,
    ]
    .concat()
    {
        let artefact = ARTEFACTS.iter().find(|artefact| artefact.name == name);
        let module = artefact.unwrap_or_else(|| panic!("{name}")).module;
        let directory = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("upstream")
            .join(module);
        assert!(
            directory.join("go.mod").is_file(),
            "{}",
            directory.display()
        );
        // A pinned module with another version in the table would be stamped with a lie.
        let sums = fs::read_to_string(directory.join("go.sum")).unwrap();
        let artefact = artefact.unwrap();
        if !matches!(artefact.module, "kubernetes" | "sample-apiserver")
            || artefact.stamp == Stamp::Kubernetes
        {
            let version = artefact.version.trim_start_matches('v');
            assert!(
                sums.contains(&format!(" v{version} h1:")),
                "{name} {version}"
            );
        }
    }
}

#[test]
fn arguments_are_those_the_recipe_was_measured_with() {
    let show = |name: &str| {
        let artefact = ARTEFACTS
            .iter()
            .find(|artefact| artefact.name == name)
            .unwrap();
        arguments(artefact, Path::new("OUT"), 2).join("\n")
    };
    expect_test::expect![[r#"
        build
        -trimpath
        -p=2
        -tags
        netgo osusergo seccomp
        -ldflags
        -s -w -extldflags -static -X main.version=1.5.2
        -o
        OUT
        github.com/opencontainers/runc"#]]
    .assert_eq(&show("runc"));
    expect_test::expect![[r#"
        build
        -trimpath
        -p=2
        -ldflags
        -s -w -X k8s.io/component-base/version.gitVersion=v1.37.1 -X k8s.io/component-base/version.gitMajor=1 -X k8s.io/component-base/version.gitMinor=37 -X k8s.io/component-base/version.gitCommit=v1.37.1 -X k8s.io/component-base/version.gitTreeState=clean -X k8s.io/component-base/version.buildDate=2026-11-01T00:00:00Z -X k8s.io/client-go/pkg/version.gitVersion=v1.37.1 -X k8s.io/client-go/pkg/version.gitMajor=1 -X k8s.io/client-go/pkg/version.gitMinor=37 -X k8s.io/client-go/pkg/version.gitCommit=v1.37.1 -X k8s.io/client-go/pkg/version.gitTreeState=clean -X k8s.io/client-go/pkg/version.buildDate=2026-11-01T00:00:00Z
        -o
        OUT
        k8s.io/kubernetes/cmd/kube-scheduler"#]]
    .assert_eq(&show("kube-scheduler"));
}

#[test]
fn the_key_sees_module_files_flags_and_go_but_not_cores() {
    let module = TempDir::new().unwrap();
    let write = |sum: &str| {
        fs::write(module.path().join("go.mod"), "module x").unwrap();
        fs::write(module.path().join("go.sum"), sum).unwrap();
    };
    write("a");
    let base = key(&ARTEFACTS[0], module.path(), "go1.26.8").unwrap();
    assert_eq!(base, key(&ARTEFACTS[0], module.path(), "go1.26.8").unwrap());
    assert_ne!(base, key(&ARTEFACTS[0], module.path(), "go1.26.9").unwrap());
    assert_ne!(base, key(&ARTEFACTS[1], module.path(), "go1.26.8").unwrap());
    write("b");
    assert_ne!(base, key(&ARTEFACTS[0], module.path(), "go1.26.8").unwrap());
}

#[test]
fn a_directory_of_links_carries_names_and_versions() {
    let cache = TempDir::new().unwrap();
    let program = cache.path().join("containerd-0/containerd");
    fs::create_dir(program.parent().unwrap()).unwrap();
    fs::write(&program, "x").unwrap();
    let built = Built {
        cache: cache.path().to_owned(),
        programs: [("containerd", program)].into(),
    };
    for _ in 0..2 {
        let directory = built.directory("product", &["containerd"]).unwrap();
        assert_eq!(fs::read(directory.join("containerd")).unwrap(), b"x");
        let versions = fs::read_to_string(directory.join("versions.json")).unwrap();
        assert!(
            versions.contains("\"containerd\": \"v2.4.2\""),
            "{versions}"
        );
    }
    let text = built
        .directory("product", &["runc"])
        .unwrap_err()
        .to_string();
    assert!(text.contains("runc was not built"), "{text}");
}

#[test]
fn programs_of_one_module_stay_together_in_order() {
    let wanted: Vec<&Artefact> = ARTEFACTS.iter().collect();
    let groups = by_module(&wanted);
    let modules: Vec<_> = groups.iter().map(|group| group[0].module).collect();
    assert_eq!(
        modules,
        [
            "kubernetes",
            "sample-apiserver",
            "coredns",
            "cri-tools",
            "prometheus",
            "metrics-server",
            "containerd",
            "runc",
            "cni"
        ]
    );
    assert_eq!(groups.iter().map(Vec::len).sum::<usize>(), ARTEFACTS.len());
}

#[test]
fn only_what_lies_in_the_cache_is_cached() {
    let modules = Path::new(env!("CARGO_MANIFEST_DIR")).join("upstream");
    let cache = TempDir::new().unwrap();
    let of = |names: &[&str]| cached(&modules, cache.path(), names);
    assert!(of(&["runc"]).unwrap().is_none());
    let go = Go::find().unwrap();
    let runc = chosen(&["runc"]).unwrap()[0];
    let module = modules.join("runc");
    let upstream = cache.path().join("upstream");
    let path = place(runc, &module, &upstream, &go.version_in(&module).unwrap()).unwrap();
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, "x").unwrap();
    assert_eq!(of(&["runc"]).unwrap().unwrap().path("runc").unwrap(), path);
    assert!(of(&["runc", "etcd"]).unwrap().is_none());
    assert!(
        of(&["no-such"])
            .unwrap_err()
            .to_string()
            .contains("no-such")
    );
}
