//! The task against a time server of our own on loopback.

use std::sync::atomic::{AtomicI64, Ordering};

use kedge_wire::sntp::{Leap, Packet, Timestamp};

use super::*;

/// A server that is `ahead` of this machine; gives its port.
async fn server(ahead: Duration, stratum: u8) -> String {
    dawdling(ahead, stratum, Duration::ZERO).await
}

/// The same at the end of a path whose way back takes so long.
async fn dawdling(ahead: Duration, stratum: u8, back: Duration) -> String {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let name = socket.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        let mut buffer = [0; 128];
        loop {
            let (_, from) = socket.recv_from(&mut buffer).await.unwrap();
            let time = Timestamp::from_unix(kedge_sys::time::now().wall + ahead);
            let reply = Packet {
                leap: Leap::None,
                stratum,
                root_delay: Duration::ZERO,
                root_dispersion: Duration::ZERO,
                reference: [0; 4],
                origin: Timestamp(u64::from_be_bytes(buffer[40..48].try_into().unwrap())),
                receive: time,
                transmit: time,
            };
            tokio::time::sleep(back).await;
            socket.send_to(&reply.emit(), from).await.unwrap();
        }
    });
    name
}

fn options(
    dir: &Path,
    servers: Vec<String>,
    apply: fn(Correction) -> kedge_sys::Result<()>,
) -> Options {
    Options {
        saved: dir.join("clock"),
        build_stamp: dir.join("build-stamp"),
        apply,
        ..Options::new(servers)
    }
}

async fn until(
    state: &mut watch::Receiver<ClockState>,
    wanted: impl Fn(&ClockState) -> bool,
) -> ClockState {
    let waited = tokio::time::timeout(Duration::from_secs(20), state.wait_for(|s| wanted(s))).await;
    waited.expect("in time").expect("the task lives").clone()
}

static STEPPED_TO: AtomicI64 = AtomicI64::new(0);

#[tokio::test]
async fn a_clock_that_is_an_hour_slow_is_stepped_and_the_time_saved() {
    let dir = tempfile::tempdir().unwrap();
    let servers = vec![server(Duration::from_secs(3600), 2).await];
    let mut tasks = Tasks::new("test");
    let apply = |correction| {
        let Correction::Step(to) = correction else {
            panic!("{correction:?}")
        };
        STEPPED_TO.store(to.as_secs() as i64, Ordering::SeqCst);
        Ok(())
    };
    let (_network, seen) = watch::channel(NodeNetwork::default());
    let mut state = spawn(&mut tasks, options(dir.path(), servers, apply), seen);
    let found = until(&mut state, |s| s.synchronised).await;
    assert!(
        (found.offset - 3_600_000_000_000).abs() < 500_000_000,
        "{}",
        found.offset
    );
    let wanted = kedge_sys::time::now().wall.as_secs() as i64 + 3600;
    assert!((STEPPED_TO.load(Ordering::SeqCst) - wanted).abs() <= 2);
    assert_eq!(tasks.drain(Duration::from_secs(5)).await, 0);
    assert!(read_seconds(&dir.path().join("clock")).is_some());
}

/// The first measurement of a busy boot used to be called a synchronised clock.
#[tokio::test]
async fn what_may_be_a_stall_is_said_and_synchronises_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let slow = dawdling(Duration::ZERO, 2, Duration::from_millis(300)).await;
    let mut tasks = Tasks::new("test");
    let (_network, seen) = watch::channel(NodeNetwork::default());
    let apply = |correction| panic!("{correction:?}");
    let mut state = spawn(&mut tasks, options(dir.path(), vec![slow], apply), seen);
    let found = until(&mut state, |s| s.last.is_some()).await;
    assert!(!found.synchronised && found.source.is_none() && found.fault.is_none());
    let words = found.doubt.unwrap();
    assert!(words.starts_with("not corrected: offset -"), "{words}");
    assert_eq!(tasks.drain(Duration::from_secs(5)).await, 0);
    assert_eq!(read_seconds(&dir.path().join("clock")), None);
}

/// The stop may come while a step's time is being saved.
#[tokio::test]
async fn a_save_that_nobody_waits_for_does_not_undo_the_next() {
    let dir = tempfile::tempdir().unwrap();
    let keeper = Keeper {
        options: options(dir.path(), vec![], |_| Ok(())),
        network: watch::channel(NodeNetwork::default()).1,
        publish: watch::channel(ClockState::default()).0,
        floor: Duration::ZERO,
        saving: Arc::new(Semaphore::new(1)),
    };
    for _ in 0..100 {
        let _ = std::fs::remove_file(dir.path().join("clock"));
        {
            let mut first = std::pin::pin!(keeper.save());
            std::future::poll_fn(|context| {
                let _ = first.as_mut().poll(context);
                std::task::Poll::Ready(())
            })
            .await;
        }
        keeper.save().await;
        assert!(read_seconds(&dir.path().join("clock")).is_some());
    }
}

#[tokio::test]
async fn without_servers_it_is_said_and_those_of_dhcp_are_used_when_they_come() {
    let dir = tempfile::tempdir().unwrap();
    let mut tasks = Tasks::new("test");
    let (network, seen) = watch::channel(NodeNetwork::default());
    let mut state = spawn(&mut tasks, options(dir.path(), vec![], |_| Ok(())), seen);
    tokio::task::yield_now().await;
    assert_eq!(
        state.borrow().fault,
        None,
        "before the first lease nobody knows"
    );
    network.send(with_address()).unwrap();
    let found = until(&mut state, |s| s.fault.is_some()).await;
    assert_eq!(
        found.fault.unwrap(),
        "no time server: the config names none (time.servers) and DHCP gave none"
    );
    // Nobody listens on port 123 of this address; what matters is that it is asked.
    let mut with_server = with_address();
    with_server.ntp_servers.push(Ipv4Addr::new(127, 9, 9, 9));
    network.send(with_server).unwrap();
    let found = until(&mut state, |s| {
        s.fault.as_ref().is_some_and(|f| f.contains("127.9.9.9"))
    })
    .await;
    assert!(!found.synchronised);
}

#[tokio::test]
async fn a_server_that_does_not_know_the_time_is_not_followed() {
    let dir = tempfile::tempdir().unwrap();
    let (bad, good) = (
        server(Duration::from_secs(86_400), 16).await,
        server(Duration::ZERO, 3).await,
    );
    let mut tasks = Tasks::new("test");
    let (_network, seen) = watch::channel(NodeNetwork::default());
    let apply = |correction| {
        assert!(matches!(correction, Correction::Slew(_)), "{correction:?}");
        Ok(())
    };
    let mut state = spawn(
        &mut tasks,
        options(dir.path(), vec![bad, good.clone()], apply),
        seen,
    );
    assert_eq!(
        until(&mut state, |s| s.synchronised).await.source,
        Some(good)
    );
}

fn with_address() -> NodeNetwork {
    let primary = crate::network::Primary {
        address: Ipv4Addr::new(192, 0, 2, 7),
        interface: "eth0".into(),
        index: 2,
        mac: kedge_wire::net::Mac([0x52, 0x54, 0, 0, 0, 1]),
        mtu: 1500,
        gateway: None,
    };
    NodeNetwork {
        primary: Some(primary),
        ..NodeNetwork::default()
    }
}
