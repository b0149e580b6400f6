//! What a client wants: `Accept` and `Accept-Encoding`, RFC 9110 section 12. What cannot be understood is not there.

use http::{HeaderMap, header};
use kedge_metrics::expo::Format;

/// One entry of a list: its name, parameters, and weight in thousandths.
struct Entry<'a> {
    name: &'a str,
    version: Option<&'a str>,
    weight: u32,
}

fn entries<'a>(
    headers: &'a HeaderMap,
    name: header::HeaderName,
) -> impl Iterator<Item = Entry<'a>> {
    let values = headers.get_all(name).into_iter();
    let lists = values.filter_map(|v| v.to_str().ok());
    lists.flat_map(|list| list.split(',')).map(|text| {
        let mut parts = text.split(';').map(str::trim);
        let mut entry = Entry {
            name: parts.next().unwrap_or_default(),
            version: None,
            weight: 1000,
        };
        for (key, value) in parts.filter_map(|p| p.split_once('=')) {
            match key.trim() {
                "q" => entry.weight = weight(value.trim()),
                "version" => entry.version = Some(value.trim().trim_matches('"')),
                _ => {}
            }
        }
        entry
    })
}

/// `0.5` is 500; nonsense is nothing.
fn weight(text: &str) -> u32 {
    let value: f64 = text.parse().unwrap_or(0.0);
    if (0.0..=1.0).contains(&value) {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "between 0 and 1000"
        )]
        let thousandths = (value * 1000.0).round() as u32;
        return thousandths;
    }
    0
}

/// OpenMetrics when it is asked for at least as much as text.
pub(super) fn format(headers: &HeaderMap) -> Format {
    let (mut open, mut text) = (0, 0);
    for entry in entries(headers, header::ACCEPT) {
        if entry
            .name
            .eq_ignore_ascii_case("application/openmetrics-text")
        {
            if matches!(entry.version, None | Some("1.0.0" | "0.0.1")) {
                open = open.max(entry.weight);
            }
        } else if ["text/plain", "text/*", "*/*"]
            .iter()
            .any(|n| entry.name.eq_ignore_ascii_case(n))
        {
            let known = entry.version.is_none_or(|v| v == "0.0.4");
            text = text.max(if known { entry.weight } else { 0 });
        }
    }
    match open > 0 && open >= text {
        true => Format::OpenMetrics,
        false => Format::Text,
    }
}

/// Whether gzip may be sent.
pub(super) fn gzip(headers: &HeaderMap) -> bool {
    let mut wanted = None;
    for entry in entries(headers, header::ACCEPT_ENCODING) {
        if entry.name.eq_ignore_ascii_case("gzip") {
            return entry.weight > 0;
        }
        if entry.name == "*" {
            wanted = Some(entry.weight > 0);
        }
    }
    wanted.unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(name: header::HeaderName, values: &[&[u8]]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(&name, http::HeaderValue::from_bytes(value).unwrap());
        }
        headers
    }

    #[test]
    fn the_format_is_what_the_client_prefers() {
        let check = |accept: &str, expected| {
            let headers = headers(header::ACCEPT, &[accept.as_bytes()]);
            assert_eq!(format(&headers), expected, "{accept}");
        };
        // Prometheus 2 and 3 as they ask.
        check(
            "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
            Format::OpenMetrics,
        );
        check(
            "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.3,text/plain;version=0.0.4;q=0.2,*/*;q=0.1",
            Format::OpenMetrics,
        );
        check("text/plain;version=0.0.4;q=1,*/*;q=0.1", Format::Text);
        check(
            "application/openmetrics-text;q=0.3,text/plain;q=0.5",
            Format::Text,
        );
        check("application/openmetrics-text;q=0", Format::Text);
        check("application/openmetrics-text;version=9.0.0", Format::Text);
        check(
            "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily",
            Format::Text,
        );
        check("*/*", Format::Text);
        check(";;;,,q=,=", Format::Text);
        check("application/openmetrics-text;q=nonsense", Format::Text);
        assert_eq!(format(&HeaderMap::new()), Format::Text);
        assert_eq!(
            format(&headers(header::ACCEPT, &[b"\xff\xfe"])),
            Format::Text
        );
    }

    #[test]
    fn gzip_is_sent_to_those_who_take_it() {
        let check = |accept: &str, expected| {
            let headers = headers(header::ACCEPT_ENCODING, &[accept.as_bytes()]);
            assert_eq!(gzip(&headers), expected, "{accept}");
        };
        check("gzip", true);
        check("deflate, GZIP;q=0.5", true);
        check("gzip;q=0, *", false);
        check("*", true);
        check("identity", false);
        check("", false);
        assert!(!gzip(&HeaderMap::new()));
    }

    proptest::proptest! {
        #[test]
        fn any_header_is_taken(value in "[\\x20-\\x7e]{0,200}") {
            let map = headers(header::ACCEPT, &[value.as_bytes()]);
            let _ = format(&map);
            let map = headers(header::ACCEPT_ENCODING, &[value.as_bytes()]);
            let _ = gzip(&map);
        }
    }
}
