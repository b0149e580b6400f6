//! The macro that makes rows and checks from one list, and what it needs.

use serde::Serialize;
use serde_json::Value;

use super::Refusal;

/// `rows!(check_name, ROWS_NAME: Struct { field = yes "test", field = no "message", field = part "test", "message", |value| ok; … })`
///
/// Makes `fn check_name(value: &Struct, at: &str, out: &mut Vec<Refusal>)`, which takes the struct apart completely, and
/// the rows.
macro_rules! rows {
    ($check:ident, $rows:ident: $kind:ident { $($field:ident = $how:ident $text:literal $(, $message:literal, $ok:expr)?;)* }) => {
        fn $check(value: &k8s_openapi::api::core::v1::$kind, at: &str, out: &mut Vec<$crate::fields::Refusal>) {
            let k8s_openapi::api::core::v1::$kind { $($field),* } = value;
            let (_, _) = (at, &out);
            $(rows!(@check $field, at, out, $how $text $(, $message, $ok)?);)*
        }

        const $rows: &[$crate::fields::Row] = &[
            $($crate::fields::Row {
                kind: stringify!($kind),
                field: stringify!($field),
                verdict: rows!(@verdict $how $text $(, $message)?),
            }),*
        ];
    };
    (@check $field:ident, $at:ident, $out:ident, yes $test:literal) => { let _ = $field; };
    (@check $field:ident, $at:ident, $out:ident, no $text:literal) => {
        if $crate::fields::table::present($field) {
            $out.push($crate::fields::table::refusal($at, stringify!($field), $text));
        }
    };
    (@check $field:ident, $at:ident, $out:ident, part $test:literal, $message:literal, $ok:expr) => {
        if !$crate::fields::table::judge($field, $ok) {
            $out.push($crate::fields::table::refusal($at, stringify!($field), $message));
        }
    };
    (@verdict yes $test:literal) => { $crate::fields::Verdict::Supported { test: $test } };
    (@verdict no $message:literal) => { $crate::fields::Verdict::Refused { message: $message } };
    (@verdict part $test:literal, $message:literal) => {
        $crate::fields::Verdict::Partly { test: $test, message: $message }
    };
}

/// Gives the closure its argument type.
pub(super) fn judge<T>(value: &T, ok: impl Fn(&T) -> bool) -> bool {
    ok(value)
}

/// Is the field used? An empty list, an empty text and `false` ask for nothing.
pub(super) fn present<T: Serialize>(value: &T) -> bool {
    match serde_json::to_value(value) {
        Ok(Value::Null | Value::Bool(false)) | Err(_) => false,
        Ok(Value::Array(list)) => !list.is_empty(),
        Ok(Value::String(text)) => !text.is_empty(),
        Ok(_) => true,
    }
}

pub(super) fn refusal(at: &str, field: &str, message: &str) -> Refusal {
    Refusal {
        path: format!("{at}.{}", json_name(field)),
        message: format!("{message} not supported by this node"),
    }
}

/// The field's name in JSON.
pub(super) fn json_name(field: &str) -> String {
    match field {
        "host_pid" => return "hostPID".into(),
        "host_ipc" => return "hostIPC".into(),
        "host_ip" => return "hostIP".into(),
        "set_hostname_as_fqdn" => return "setHostnameAsFQDN".into(),
        "downward_api" => return "downwardAPI".into(),
        "aws_elastic_block_store" => return "awsElasticBlockStore".into(),
        "gce_persistent_disk" => return "gcePersistentDisk".into(),
        "scale_io" => return "scaleIO".into(),
        "type_" => return "type".into(),
        _ => {}
    }
    let mut name = String::new();
    let mut up = false;
    for c in field.chars() {
        if c == '_' {
            up = true;
        } else {
            name.push(if up { c.to_ascii_uppercase() } else { c });
            up = false;
        }
    }
    name
}
