//! What plugins answer: results of ADD, errors, the versions that they know (CNI specification 1.1, section 5).

use super::config::{Object, Version};
use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::net::IpAddr;

/// The most entries of any list that is read.
const MAX_ENTRIES: usize = 256;
/// The most characters of a plugin's own words in a message.
const MAX_SAID: usize = 2000;

/// Resolver settings of a network.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResultDns {
    /// `nameservers`
    #[serde(default)]
    pub nameservers: Vec<IpAddr>,
    /// `domain`
    #[serde(default)]
    pub domain: Option<String>,
    /// `search`
    #[serde(default)]
    pub search: Vec<String>,
    /// `options`
    #[serde(default)]
    pub options: Vec<String>,
}

/// What of a result is read; all of it is passed on.
#[derive(Deserialize)]
struct Read {
    interfaces: Option<Vec<Interface>>,
    ips: Option<Vec<Ip>>,
    dns: Option<ResultDns>,
}

#[derive(Deserialize)]
struct Interface {
    name: String,
    sandbox: Option<String>,
}

#[derive(Deserialize)]
struct Ip {
    address: String,
    interface: Option<usize>,
}

/// The result of a plugin's ADD, as the next one gets it: an object that says the version by which it is to be read.
pub(super) fn result(text: &[u8], version: Version) -> Result<Object> {
    let mut object = match serde_json::from_slice(text) {
        Ok(Value::Object(object)) => object,
        _ if text.trim_ascii().is_empty() => bail!("it printed no result"),
        Ok(_) => bail!("it printed no JSON object: {}", said(text)),
        Err(error) => bail!("it printed no JSON ({error}): {}", said(text)),
    };
    // Versions 0.3.0 and later differ in a field that only plugins read; those before had other fields altogether.
    let answered = object.get("cniVersion").and_then(Value::as_str).map(str::to_owned);
    if let Some(other) = answered.filter(|answered| Version::parse(answered).is_none()) {
        bail!("its result is of version {other:?}, asked was {}", version.as_str());
    }
    object.insert("cniVersion".into(), version.as_str().into());
    Ok(object)
}

/// The addresses of the pod that a result speaks of, in its order, and its resolver settings.
pub(super) fn read(result: &Object) -> Result<(Vec<IpAddr>, ResultDns)> {
    let read: Read = serde_json::from_value(Value::Object(result.clone())).context("the result")?;
    let (interfaces, ips) = (read.interfaces.unwrap_or_default(), read.ips.unwrap_or_default());
    let dns = read.dns.unwrap_or_default();
    let lists = [interfaces.len(), ips.len(), dns.nameservers.len(), dns.search.len(), dns.options.len()];
    if let Some(count) = lists.into_iter().find(|count| *count > MAX_ENTRIES) {
        bail!("the result has a list of {count} entries, more than {MAX_ENTRIES}");
    }
    let mut addresses = Vec::new();
    for (index, ip) in ips.iter().enumerate() {
        let of = format!("the result's ips[{index}]");
        let text = ip.address.split_once('/').map_or(ip.address.as_str(), |(address, _)| address);
        let address: IpAddr = text.parse().with_context(|| format!("{of}: address {:?}", ip.address))?;
        let is_in_the_pod = match ip.interface {
            // It may be left away where there is only one interface.
            None => true,
            Some(number) => {
                let count = interfaces.len();
                let interface = interfaces.get(number);
                let interface = interface.with_context(|| format!("{of}: interface {number} of {count}"))?;
                interface.sandbox.as_ref().is_some_and(|sandbox| !sandbox.is_empty())
            }
        };
        if is_in_the_pod && !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    // They become lines of /etc/resolv.conf.
    let words = dns.domain.iter().chain(&dns.search).chain(&dns.options);
    if let Some(wrong) = words.into_iter().find(|word| word.contains(|c: char| c.is_whitespace() || c.is_control())) {
        bail!("the result's dns: {wrong:?} is no word");
    }
    if addresses.is_empty() {
        let names: Vec<&str> = interfaces.iter().take(8).map(|interface| interface.name.as_str()).collect();
        bail!("the result has no address of an interface in the pod; its interfaces are {names:?}");
    }
    Ok((addresses, dns))
}

/// What a plugin says of its failure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refusal {
    /// `code`; 1 to 99 are the specification's.
    pub(super) code: u32,
    /// `msg`
    message: String,
    /// `details`
    details: String,
}

impl Refusal {
    /// "Try again later": what is in the way is expected to pass.
    pub(super) const TRY_AGAIN: u32 = 11;

    /// From what it printed; `None` if that is no error as the specification has it.
    pub(super) fn parse(text: &[u8]) -> Option<Refusal> {
        #[derive(Deserialize)]
        struct Wire {
            code: u32,
            #[serde(default)]
            msg: String,
            #[serde(default)]
            details: String,
        }
        let wire: Wire = serde_json::from_slice(text).ok()?;
        Some(Refusal { code: wire.code, message: said(wire.msg.as_bytes()), details: said(wire.details.as_bytes()) })
    }
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let meaning = match self.code {
            1 => "incompatible CNI version",
            2 => "unsupported field in the network configuration",
            3 => "unknown container",
            4 => "invalid environment variables",
            5 => "input or output failed",
            6 => "decoding failed",
            7 => "invalid network configuration",
            8 => "invalid network namespace",
            Refusal::TRY_AGAIN => "try again later",
            50 => "the plugin is not available",
            51 => "the plugin is not available, existing pods may have limited connectivity",
            _ => "",
        };
        let parts: Vec<&str> = [&*self.message, &*self.details].into_iter().filter(|part| !part.is_empty()).collect();
        let text = if parts.is_empty() { "no message".to_owned() } else { parts.join(": ") };
        match meaning {
            "" => write!(f, "{text} (code {})", self.code),
            _ => write!(f, "{text} (code {}: {meaning})", self.code),
        }
    }
}

impl std::error::Error for Refusal {}

/// The versions that a plugin answers VERSION with.
pub(super) fn supported(text: &[u8]) -> Result<Vec<Version>> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Wire {
        supported_versions: Vec<String>,
    }
    let wire: Wire = serde_json::from_slice(text).with_context(|| format!("its answer {:?}", said(text)))?;
    Ok(wire.supported_versions.iter().filter_map(|version| Version::parse(version)).collect())
}

/// The end of what a plugin printed, as one piece of a message.
pub(super) fn said(text: &[u8]) -> String {
    let text = String::from_utf8_lossy(text);
    let text = text.trim();
    match text.char_indices().rev().nth(MAX_SAID - 1) {
        Some((at, _)) if at > 0 => format!("…{}", &text[at..]),
        _ => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read_value(value: Value) -> Result<(Vec<IpAddr>, ResultDns)> {
        read(&result(value.to_string().as_bytes(), Version::V1_0_0)?)
    }

    #[test]
    fn addresses_are_those_of_interfaces_in_the_pod_in_their_order() {
        let interfaces = json!([{ "name": "br0" }, { "name": "veth1", "sandbox": "" }, { "name": "eth0", "sandbox": "/run/ns" },
            { "name": "eth1", "sandbox": "/run/ns" }]);
        let (addresses, dns) = read_value(json!({ "cniVersion": "0.4.0", "interfaces": interfaces, "ips": [
            { "version": "6", "address": "fd00::2/64", "interface": 2 },
            { "version": "4", "address": "10.0.0.1/24", "interface": 0 },
            { "version": "4", "address": "10.0.0.9/24", "interface": 1 },
            { "version": "4", "address": "10.0.0.2/24", "interface": 3, "gateway": "10.0.0.1" },
            { "version": "4", "address": "10.0.0.2/24", "interface": 3 },
        ], "dns": { "nameservers": ["10.0.0.53"], "domain": "a.example", "search": ["b.example"], "options": ["ndots:2"] } }))
        .unwrap();
        assert_eq!(addresses.iter().map(IpAddr::to_string).collect::<Vec<_>>(), ["fd00::2", "10.0.0.2"]);
        assert_eq!(dns.nameservers, ["10.0.0.53".parse::<IpAddr>().unwrap()]);
        assert_eq!(
            (dns.domain.as_deref(), &dns.search[..], &dns.options[..]),
            (Some("a.example"), &["b.example".to_owned()][..], &["ndots:2".to_owned()][..])
        );
        // Without interfaces it is the only one that is meant.
        let (addresses, dns) = read_value(json!({ "ips": [{ "address": "10.0.0.2/24" }] })).unwrap();
        assert_eq!((addresses.len(), dns), (1, ResultDns::default()));
    }

    #[test]
    fn results_that_are_none_are_refused() {
        for (value, said) in [
            (json!([]), "no JSON object"),
            (json!({}), "no address"),
            (json!({ "cniVersion": "0.2.0", "ip4": { "ip": "10.0.0.2/24" } }), "of version \"0.2.0\", asked was 1.0.0"),
            (json!({ "ips": [{ "address": "10.0.0/24" }] }), "ips[0]: address \"10.0.0/24\""),
            (json!({ "ips": [{ "address": "10.0.0.1/24", "interface": 3 }] }), "ips[0]: interface 3 of 0"),
            (json!({ "ips": [{ "address": "10.0.0.1/24", "interface": -1 }] }), "the result: invalid value"),
            (
                json!({ "interfaces": [{ "name": "br0" }], "ips": [{ "address": "10.0.0.1/24", "interface": 0 }] }),
                "[\"br0\"]",
            ),
            (
                json!({ "ips": [{ "address": "10.0.0.1/24" }], "dns": { "search": ["a\nnameserver 6.6.6.6"] } }),
                "is no word",
            ),
            (json!({ "ips": [{ "address": "10.0.0.1/24" }], "dns": { "nameservers": ["a"] } }), "invalid IP address"),
            (json!({ "ips": vec![json!({ "address": "10.0.0.1/24" }); 300] }), "a list of 300 entries"),
        ] {
            let error = format!("{:#}", read_value(value.clone()).unwrap_err());
            assert!(error.contains(said), "{value}: {error}");
        }
        let of = |text: &[u8]| format!("{:#}", result(text, Version::V1_0_0).unwrap_err());
        assert!(of(b" \n").contains("no result"));
        assert!(of(b"panic: \xff").contains("it printed no JSON (expected value at line 1 column 1): panic: "));
    }

    #[test]
    fn failures_are_told_with_their_meaning() {
        let refusal = Refusal::parse(br#"{"cniVersion":"1.0.0","code":11,"msg":"busy","details":"lease"}"#).unwrap();
        assert_eq!(refusal.to_string(), "busy: lease (code 11: try again later)");
        let own = Refusal::parse(br#"{"code":123,"msg":"no more"}"#).unwrap();
        assert_eq!(own.to_string(), "no more (code 123)");
        assert_eq!(Refusal::parse(b"{}"), None);
        assert_eq!(Refusal::parse(b"Segmentation fault"), None);
        assert_eq!(said("ä".repeat(5000).as_bytes()).chars().count(), MAX_SAID + 1);
    }

    #[test]
    fn versions_that_nobody_knows_are_passed_over() {
        let text = br#"{"cniVersion":"1.0.0","supportedVersions":["0.1.0","0.4.0","1.0.0","2.0.0"]}"#;
        assert_eq!(supported(text).unwrap(), [Version::V0_4_0, Version::V1_0_0]);
        assert!(supported(b"{}").is_err());
    }
}
