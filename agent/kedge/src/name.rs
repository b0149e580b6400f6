//! What a node is called when nobody says so. Pure.

use kedge_machine::identity::check_node_name;

/// The node's name: the config's, else the one kept from an earlier join (a name must not change with the network), else
/// DHCP's host name, else `kedge-` and the last six digits of the hardware address. `None` while nothing is known yet.
pub fn choose(
    config: Option<&str>,
    kept: Option<&str>,
    dhcp: Option<&str>,
    mac: Option<[u8; 6]>,
) -> Option<String> {
    let valid = |name: &&str| check_node_name(name).is_ok();
    if let Some(name) = config.or(kept) {
        return Some(name.to_owned());
    }
    let dhcp = dhcp.map(str::to_ascii_lowercase);
    if let Some(name) = dhcp.as_deref().filter(valid) {
        return Some(name.to_owned());
    }
    mac.map(|m| format!("kedge-{:02x}{:02x}{:02x}", m[3], m[4], m[5]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_source_that_knows_gives_the_name() {
        let mac = Some([0x52, 0x54, 0, 0xab, 0xcd, 0xef]);
        let check = |config, kept, dhcp, mac, expected: Option<&str>| {
            assert_eq!(choose(config, kept, dhcp, mac).as_deref(), expected);
        };
        check(
            Some("edge-7"),
            Some("old"),
            Some("dhcp"),
            mac,
            Some("edge-7"),
        );
        check(None, Some("old"), Some("dhcp"), mac, Some("old"));
        check(
            None,
            None,
            Some("Box.Shop.Example"),
            mac,
            Some("box.shop.example"),
        );
        check(None, None, Some("bad_name"), mac, Some("kedge-abcdef"));
        check(None, None, None, None, None);
    }
}
