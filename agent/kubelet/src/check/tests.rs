//! Checks against real sockets on loopback.

use super::*;
use kedge_cri::fake::Fake;
use kedge_pods::hook::HttpGet;
use kedge_tasks::meter::Reading;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

/// Answers each connection with the next text; gives what was asked.
async fn server(answers: Vec<String>) -> (u16, tokio::task::JoinHandle<Vec<String>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let task = tokio::spawn(async move {
        let mut asked = Vec::new();
        for answer in answers {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = Vec::new();
            let mut buffer = [0u8; 4096];
            while !request.windows(4).any(|w| w == b"\r\n\r\n") {
                let n = stream.read(&mut buffer).await.unwrap();
                request.extend_from_slice(&buffer[..n]);
            }
            asked.push(String::from_utf8(request).unwrap());
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
        asked
    });
    (port, task)
}

fn response(status: &str, headers: &str) -> String {
    format!("HTTP/1.1 {status}\r\n{headers}content-length: 0\r\nconnection: close\r\n\r\n")
}

fn get(port: u16) -> HttpGet {
    HttpGet {
        https: false,
        host: "127.0.0.1".into(),
        port,
        path: "/health?x=1".into(),
        headers: vec![("User-Agent".into(), "kube-probe/1.37".into())],
        host_header: Some("pod.example".into()),
    }
}

async fn run(handler: Handler) -> Answer {
    probe(&Fake::new(), "c", &handler, Duration::from_secs(5)).await
}

#[tokio::test]
async fn statuses_below_400_are_success() {
    let check = async |status: &str| {
        let (port, task) = server(vec![response(status, "")]).await;
        let answer = run(Handler::Http(get(port))).await;
        let asked = task.await.unwrap();
        assert!(
            asked[0].starts_with("GET /health?x=1 HTTP/1.1\r\n"),
            "{asked:?}"
        );
        assert!(asked[0].contains("host: pod.example\r\n"), "{asked:?}");
        assert!(
            asked[0].contains("user-agent: kube-probe/1.37\r\n"),
            "{asked:?}"
        );
        answer
    };
    assert_eq!(check("200 OK").await, Answer::Success);
    assert_eq!(check("399 Odd").await, Answer::Success);
    let failed = Answer::Failure("HTTP probe failed with status 500".into());
    assert_eq!(check("500 Bad").await, failed);
}

#[tokio::test]
async fn redirects_on_the_host_are_followed_and_others_are_not() {
    let (port, task) = server(vec![
        response("302 Found", "location: /other\r\n"),
        response("200 OK", ""),
    ])
    .await;
    assert_eq!(run(Handler::Http(get(port))).await, Answer::Success);
    assert!(task.await.unwrap()[1].starts_with("GET /other "));

    let (port, _task) = server(vec![response(
        "302 Found",
        "location: http://elsewhere.example/\r\n",
    )])
    .await;
    let answer = run(Handler::Http(get(port))).await;
    assert!(
        matches!(&answer, Answer::Warning(text) if text.contains("elsewhere.example")),
        "{answer:?}"
    );
}

#[tokio::test]
async fn redirects_end() {
    let loops = vec![response("302 Found", "location: /again\r\n"); 11];
    let (port, _task) = server(loops).await;
    let answer = run(Handler::Http(get(port))).await;
    assert_eq!(answer, Answer::Failure("stopped after 10 redirects".into()));
}

#[tokio::test]
async fn nobody_listening_is_a_failure_that_names_the_address() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(listener);
    let handler = Handler::Tcp {
        host: "127.0.0.1".into(),
        port,
    };
    let answer = run(handler).await;
    let address = format!("127.0.0.1:{port}");
    assert!(
        matches!(&answer, Answer::Failure(text) if text.contains(&address)),
        "{answer:?}"
    );
}

#[tokio::test]
async fn a_listening_port_is_success_for_tcp() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let handler = Handler::Tcp {
        host: "127.0.0.1".into(),
        port,
    };
    assert_eq!(run(handler).await, Answer::Success);
}

#[tokio::test]
async fn a_server_that_is_silent_fails_in_time() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let handler = Handler::Http(get(port));
    let answer = probe(&Fake::new(), "c", &handler, Duration::from_millis(50)).await;
    drop(listener);
    assert!(matches!(answer, Answer::Failure(_)), "{answer:?}");
}

#[tokio::test]
async fn plain_http_behind_an_https_hook_is_tried_without_tls() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let tls_port = listener.local_addr().unwrap().port();
    let closing = tokio::spawn(async move {
        let (mut first, _) = listener.accept().await.unwrap();
        first
            .write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            .await
            .unwrap();
        drop(first);
        let (mut second, _) = listener.accept().await.unwrap();
        let mut buffer = [0u8; 1024];
        let n = second.read(&mut buffer).await.unwrap();
        second
            .write_all(response("200 OK", "").as_bytes())
            .await
            .unwrap();
        String::from_utf8_lossy(&buffer[..n]).into_owned()
    });
    let mut hook_get = get(tls_port);
    hook_get.https = true;
    let meters = Meters::default();
    hook(&Fake::new(), &meters, "c", &Handler::Http(hook_get))
        .await
        .unwrap();
    assert!(closing.await.unwrap().starts_with("GET /health"));
    assert_eq!(
        meters.reading(&meters::FALLBACKS, &[]),
        Some(Reading::Count(1))
    );
}

#[tokio::test(start_paused = true)]
async fn a_sleep_that_is_cut_short_is_counted_and_a_whole_one_is_not() {
    let meters = Meters::default();
    meters.declare(&[&meters::SLEEPS]);
    let sleep = Handler::Sleep { seconds: 10 };
    let fake = Fake::new();
    for (limit, cut) in [(11, 0), (9, 1)] {
        let limit = Duration::from_secs(limit);
        let slept = hook(&fake, &meters, "c", &sleep);
        let ended = tokio::time::timeout(limit, slept).await;
        assert_eq!(ended.is_err(), cut == 1);
        assert_eq!(
            meters.reading(&meters::SLEEPS, &[]),
            Some(Reading::Count(cut))
        );
    }
}
