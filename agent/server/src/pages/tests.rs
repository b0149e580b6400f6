use http_body_util::BodyExt;
use kedge_metrics::expo::{Kind, Value};
use std::io::Read;

use super::*;

/// A page of `0` many lines.
struct Lines(u32);

impl Source for Lines {
    fn write(&mut self, to: &mut Writer) -> bool {
        if self.0 == 0 {
            return false;
        }
        to.family("line", Kind::Gauge, "A line.");
        for _ in 0..10.min(self.0) {
            self.0 -= 1;
            to.sample(
                "",
                &[("n", &self.0.to_string())],
                Value::Int(u64::from(self.0)),
                None,
            );
        }
        true
    }
}

fn accepts(encoding: &'static str) -> HeaderMap {
    HeaderMap::from_iter([(
        header::ACCEPT_ENCODING,
        http::HeaderValue::from_static(encoding),
    )])
}

async fn read(response: Response) -> Vec<u8> {
    let (mut body, mut all) = (response.into_body(), Vec::new());
    while let Some(frame) = body.frame().await {
        // Copied: a piece that is held would keep the next from being made.
        all.extend_from_slice(frame.unwrap().data_ref().unwrap());
    }
    all
}

#[tokio::test]
async fn a_large_page_is_the_same_with_gzip_and_comes_in_pieces() {
    let limits = Limits::default();
    let plain = metrics(
        limits.take(&accepts("")).unwrap(),
        &accepts(""),
        Box::new(Lines(20_000)),
    );
    let mut body = plain.into_body();
    let (mut text, mut pieces) = (Vec::new(), 0);
    while let Some(frame) = body.frame().await {
        let data = frame.unwrap().into_data().unwrap();
        assert!(data.len() < 2 * PIECE, "{}", data.len());
        text.extend_from_slice(&data);
        pieces += 1;
    }
    assert!(pieces > 10, "{pieces}");
    let packed = metrics(
        limits.take(&accepts("gzip")).unwrap(),
        &accepts("gzip"),
        Box::new(Lines(20_000)),
    );
    assert_eq!(packed.headers()[header::CONTENT_ENCODING], "gzip");
    let packed = read(packed).await;
    assert!(packed.len() * 4 < text.len());
    let mut unpacked = Vec::new();
    flate2::read::GzDecoder::new(&packed[..])
        .read_to_end(&mut unpacked)
        .unwrap();
    assert!(unpacked == text);
}

#[tokio::test]
async fn encoders_and_pages_are_bounded() {
    let limits = Limits::default();
    let permits: Vec<Permit> = (0..PAGES)
        .map(|_| limits.take(&accepts("gzip")).unwrap())
        .collect();
    let with_gzip = permits.iter().filter(|p| p.encoder.is_some()).count();
    assert_eq!(with_gzip, ENCODERS);
    let refused = limits.take(&accepts("gzip")).err().unwrap().into_response();
    assert_eq!(refused.status(), StatusCode::SERVICE_UNAVAILABLE);
    drop(permits);
    assert!(limits.take(&accepts("gzip")).unwrap().encoder.is_some());
}

#[tokio::test(start_paused = true)]
async fn pieces_are_made_as_the_ones_before_leave() {
    let limits = Limits::default();
    let permit = limits.take(&accepts("")).unwrap();
    let mut body = metrics(permit, &accepts(""), Box::new(Lines(20_000))).into_body();
    let mut held = Vec::new();
    for _ in 0..PIECES {
        held.push(body.frame().await.unwrap().unwrap());
    }
    // Whoever holds the pieces (a socket that takes nothing) gets no more of them …
    let more = tokio::time::timeout(Duration::from_secs(1), body.frame());
    assert!(more.await.is_err());
    // … until one has left.
    held.pop();
    assert!(body.frame().await.unwrap().is_ok());
}

#[tokio::test(start_paused = true)]
async fn who_does_not_read_is_cut_off_and_gives_its_place_back() {
    let limits = Limits::default();
    let response = metrics(
        limits.take(&accepts("")).unwrap(),
        &accepts(""),
        Box::new(Lines(20_000)),
    );
    let mut body = response.into_body();
    let mut held = Vec::new();
    for _ in 0..PIECES {
        held.push(body.frame().await.unwrap().unwrap());
    }
    let began = Instant::now();
    assert!(body.frame().await.unwrap().is_err());
    assert!(began.elapsed() <= LONGEST);
    drop(body);
    assert_eq!(limits.pages.available_permits(), PAGES);
}

/// HTTP/2 does not ask a body for more while its client gives no window.
#[tokio::test(start_paused = true)]
async fn a_page_that_is_asked_for_no_more_gives_its_place_back() {
    let limits = Limits::default();
    let dropped = Arc::new(());
    let source = Held(dropped.clone());
    let response = metrics(
        limits.take(&accepts("gzip")).unwrap(),
        &accepts("gzip"),
        Box::new(source),
    );
    let mut body = response.into_body();
    let first = body.frame().await.unwrap().unwrap();
    tokio::time::sleep(LONGEST + Duration::from_millis(1)).await;
    assert_eq!(limits.pages.available_permits(), PAGES);
    assert_eq!(limits.encoders.available_permits(), ENCODERS);
    assert_eq!(Arc::strong_count(&dropped), 1, "the samples are held");
    drop(first);
    assert!(body.frame().await.unwrap().is_err());
}

/// An endless page that holds something.
struct Held(#[expect(dead_code, reason = "its count is looked at")] Arc<()>);

impl Source for Held {
    fn write(&mut self, to: &mut Writer) -> bool {
        Lines(10).write(to)
    }
}
