use std::path::PathBuf;
use std::time::Duration;

use expect_test::expect_file;
use kedge_sys::block::superblock::Ext4;
use kedge_sys::block::{Kind, Short, Superblock, Volume};

use super::*;
use crate::cmdline;

const MIB: u64 = 1 << 20;

fn ext4(name: &str, label: &str, bytes: u64) -> Volume {
    Volume {
        device: PathBuf::from(format!("/dev/{name}")),
        disk: name
            .trim_end_matches(|c: char| c.is_ascii_digit())
            .to_owned(),
        bytes,
        superblock: Superblock {
            kind: Kind::Ext4(Ext4 {
                block_bytes: 4096,
                project_quota: false,
                errors: false,
            }),
            label: label.to_owned(),
            bytes,
        },
    }
}

fn text(plan: &[Planned]) -> String {
    plan.iter().map(|step| format!("{step}\n")).collect()
}

/// Lines that name one of these words.
fn about(plan: &[Planned], words: &[&str]) -> Vec<String> {
    let lines = plan.iter().map(Planned::to_string);
    lines
        .filter(|line| words.iter().any(|word| line.contains(word)))
        .collect()
}

fn normal() -> Vec<Volume> {
    vec![
        ext4("vda3", "KEDGE-STATE", 64 * MIB),
        ext4("vda4", "KEDGE-DATA", 4096 * MIB),
    ]
}

fn check(plan: &[Planned], golden: expect_test::ExpectFile) {
    golden.assert_eq(&text(plan));
}

#[test]
fn a_normal_boot_reads_like_this() {
    let cmdline = cmdline::parse("console=ttyS0 panic=10");
    let modules = |names: &[&str]| {
        names
            .iter()
            .map(|n| format!("/lib/modules/6.12/{n}.ko"))
            .collect::<Vec<_>>()
    };
    let facts = Base {
        mounted: ["/dev", "/proc", "/sys"].map(str::to_owned).into(),
        modules: modules(&["overlay", "veth"]),
    };
    let settle_facts = Settle {
        wall: Duration::from_secs(1_800_000_000),
        build_stamp: Some("1790000000\n".to_owned()),
        machine_id: Some("0123456789abcdef0123456789abcdef\n".to_owned()),
        last_shutdown: true,
        ..Settle::default()
    };
    let all = [
        kernel_file_systems(),
        initramfs(&cmdline, &modules(&["virtio_blk", "erofs"])),
        switch("/dev/vda2"),
        kernel_file_systems_missing(&facts),
        base(&cmdline, &facts),
        disks(&normal(), Some("vda"), None),
        settle(&settle_facts),
    ]
    .concat();
    check(&all, expect_file!["golden/normal.txt"]);
}

#[test]
fn a_first_boot_without_disks_and_clock_reads_like_this() {
    let only_seed = [ext4("vdb", "KEDGE-SEED", MIB)];
    let facts = Settle {
        build_stamp: Some("1790000000\n".to_owned()),
        random: [0xab; 16],
        ..Settle::default()
    };
    let all = [disks(&only_seed, None, None), settle(&facts)].concat();
    check(&all, expect_file!["golden/no-disks.txt"]);
}

#[test]
fn a_small_old_damaged_disk_reads_like_this() {
    let mut data = ext4("vda4", "KEDGE-DATA", 256 * MIB);
    data.superblock.bytes = 128 * MIB;
    data.superblock.kind = Kind::Ext4(Ext4 {
        block_bytes: 1024,
        project_quota: true,
        errors: true,
    });
    let volumes = [ext4("vda3", "KEDGE-STATE", 64 * MIB), data];
    check(
        &disks(&volumes, Some("vda"), None),
        expect_file!["golden/small-disk.txt"],
    );
}

#[test]
fn a_root_that_is_not_there_is_explained() {
    let volumes = [ext4("vdb", "KEDGE-SEED", MIB)];
    assert_eq!(
        no_root("KEDGE-ROOT-A", &volumes, &[]),
        "a volume labelled KEDGE-ROOT-A (there are /dev/vdb KEDGE-SEED); attach the node's disk or name the root with kedge.root=/dev/…"
    );
    let short = Short {
        device: "/dev/vda".into(),
        bytes: 300 * MIB,
        needed: 1200 * MIB,
    };
    assert_eq!(
        no_root("KEDGE-ROOT-A", &volumes, &[short]),
        "a volume labelled KEDGE-ROOT-A: disk too small: /dev/vda has 300 MiB, the image on it was made for 1200 MiB; write it to a larger disk"
    );
}

#[test]
fn test_services_come_from_a_volume_only_when_asked_for() {
    let mut volumes = normal();
    volumes.push(ext4("vdc", "KEDGE-TEST", 8 * MIB));
    assert_eq!(
        about(&disks(&volumes, None, None), &["/run/kedge/test"]),
        [""; 0]
    );
    let file = cmdline::parse("kedge.services=KEDGE-TEST:/services").services;
    assert_eq!(
        about(&disks(&volumes, None, file.as_ref()), &["/run/kedge/test"]),
        [
            "mount /dev/vdc on /run/kedge/test as ext4 (ro) [or fault test-services: the test volume is not used]"
        ]
    );
    assert_eq!(
        about(&disks(&normal(), None, file.as_ref()), &["kedge.services"]),
        [
            "fault test-services: kedge.services names a volume labelled KEDGE-TEST, and there is none (there are /dev/vda3 KEDGE-STATE, /dev/vda4 KEDGE-DATA)"
        ]
    );
}

#[test]
fn a_strange_disk_with_our_label_does_not_take_over() {
    let volumes = [
        ext4("sda1", "KEDGE-DATA", 1024 * MIB),
        ext4("vda4", "KEDGE-DATA", 4096 * MIB),
    ];
    let plan = disks(&volumes, Some("vda"), None);
    assert_eq!(
        about(&plan, &["/dev/sda1 is", "/dev/vda4 on"]),
        [
            "/dev/sda1 is labelled KEDGE-DATA too, using /dev/vda4",
            "mount /dev/vda4 on /data as ext4 (noatime,data=ordered,errors=remount-ro) [or fault data-unmountable: the disk is left as it is, and memory used in its place: images and pods are lost at power-off, and memory is short; mount tmpfs on /data as tmpfs (noatime,mode=0755,size=50%) [or stop]]",
        ]
    );
}

#[test]
fn a_label_on_another_file_system_is_a_fault() {
    let mut state = ext4("vda3", "KEDGE-STATE", 64 * MIB);
    state.superblock.kind = Kind::Vfat;
    let plan = disks(&[state], None, None);
    assert_eq!(
        about(&plan, &["/dev/vda3 is"]),
        [
            "fault state-unmountable: /dev/vda3 is labelled KEDGE-STATE but holds vfat, not ext4: using memory in its place, the node's identity is lost at power-off"
        ]
    );
}

#[test]
fn the_clock_is_raised_to_the_latest_time_known_and_never_lowered() {
    let case = |wall: u64, stamp: &str, state: &str, written: u64, expected: Option<u64>| {
        let facts = Settle {
            wall: Duration::from_secs(wall),
            build_stamp: Some(stamp.to_owned()),
            state_clock: Some(state.to_owned()),
            state_clock_written: Some(written),
            ..Settle::default()
        };
        let set = settle(&facts)
            .into_iter()
            .find_map(|planned| match planned.step {
                Step::Clock(to, _) => Some(to.as_secs()),
                _ => None,
            });
        assert_eq!(set, expected, "{facts:?}");
    };
    case(0, "100", "200", 150, Some(200));
    case(0, "100", "200", 250, Some(250));
    case(0, "300\n", "200", 250, Some(300));
    case(301, "300", "200", 250, None);
    case(50, "nonsense", "", 0, None);
    case(50, "-5", "99999999999999999999999", 60, Some(60));
}

#[test]
fn a_broken_machine_id_is_kept_aside_and_replaced() {
    let facts = Settle {
        machine_id: Some("\0\0\0".to_owned()),
        random: [7; 16],
        ..Settle::default()
    };
    let id = "07".repeat(16);
    let plan = settle(&facts);
    assert!(matches!(
        &plan[0].step,
        Step::Fault("machine-id-corrupt", _)
    ));
    assert_eq!(plan[1].step, Step::SetAside("/state/machine-id".to_owned()));
    assert_eq!(
        plan[2].step,
        Step::Keep("/state/machine-id".to_owned(), format!("{id}\n"))
    );
    assert_eq!(
        plan[3].step,
        Step::File("/run/kedge/etc/machine-id".to_owned(), format!("{id}\n"))
    );
}

#[test]
fn machine_ids_are_32_hex_digits() {
    assert!(super::settle::is_machine_id(
        "0123456789abcdef0123456789abcdef"
    ));
    assert!(!super::settle::is_machine_id(
        "0123456789ABCDEF0123456789abcdef"
    ));
    assert!(!super::settle::is_machine_id(
        "00000000000000000000000000000000"
    ));
    assert!(!super::settle::is_machine_id("0123"));
}

#[test]
fn the_kernels_console_level_is_left_alone_when_somebody_chose_it() {
    let plan = |line: &str| {
        about(
            &initramfs(&cmdline::parse(line), &[]),
            &["kernel/printk to"],
        )
        .len()
    };
    assert_eq!((plan("quiet"), plan("loglevel=8")), (1, 0));
}

#[test]
fn a_nonsensical_kernel_argument_is_a_fault() {
    let plan = base(&cmdline::parse("kedge.root=vda"), &Base::default());
    assert_eq!(
        about(&plan, &["kernel argument"]),
        ["fault kernel-argument: kernel argument kedge.root=vda: expected kedge.root=/dev/NAME"]
    );
}
