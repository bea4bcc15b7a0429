//! What a command line calls things, in kubectl's words: `services`, `svc`, `pod/web`.

use crate::error::{Kind, failure};
use crate::network::objects::ObjectKind;
use anyhow::Result;

/// What there is to be listed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Resource {
    Pods,
    Services,
    Endpoints,
    EndpointSlices,
    NetworkPolicies,
    Namespaces,
}

impl Resource {
    const ALL: [Resource; 6] = [
        Resource::Pods,
        Resource::Services,
        Resource::Endpoints,
        Resource::EndpointSlices,
        Resource::NetworkPolicies,
        Resource::Namespaces,
    ];

    /// The words for it: plural, singular, with its API group, short. The first one is for messages.
    fn words(self) -> &'static [&'static str] {
        match self {
            Resource::Pods => &["pods", "pod", "po"],
            Resource::Services => &["services", "service", "svc"],
            Resource::Endpoints => &["endpoints", "endpoint", "ep"],
            Resource::EndpointSlices => &[
                "endpointslices",
                "endpointslice",
                "endpointslices.discovery.k8s.io",
                "endpointslice.discovery.k8s.io",
            ],
            Resource::NetworkPolicies => &[
                "networkpolicies",
                "networkpolicy",
                "networkpolicies.networking.k8s.io",
                "networkpolicy.networking.k8s.io",
                "netpol",
            ],
            Resource::Namespaces => &["namespaces", "namespace", "ns"],
        }
    }

    /// `services`
    pub(super) fn plural(self) -> &'static str {
        self.words()[0]
    }

    /// What kubectl puts before a name: `service`, `networkpolicy.networking.k8s.io`.
    pub(super) fn prefix(self) -> &'static str {
        match self {
            Resource::Pods => "pod",
            Resource::Services => ObjectKind::Service.resource(),
            Resource::Endpoints => "endpoints",
            Resource::EndpointSlices => "endpointslice.discovery.k8s.io",
            Resource::NetworkPolicies => ObjectKind::NetworkPolicy.resource(),
            Resource::Namespaces => ObjectKind::Namespace.resource(),
        }
    }

    fn of(word: &str) -> Option<Resource> {
        let lower = word.to_lowercase();
        Resource::ALL.into_iter().find(|resource| resource.words().contains(&lower.as_str()))
    }
}

/// What a command line asks for of one type: the named ones, or all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wanted {
    pub(super) resource: Resource,
    /// `NAME` or `NAMESPACE/NAME`
    pub(super) names: Vec<String>,
}

/// Reads `TYPE[,TYPE…] [NAME…]` or `TYPE/NAME…`.
///
/// # Errors
/// Of kind `Invalid`: a word is no type; `untyped` says what to do with the name that it may be.
pub(super) fn wanted(words: &[String], untyped: impl Fn(&str) -> String) -> Result<Vec<Wanted>> {
    let Some(first) = words.first() else { return Ok(Vec::new()) };
    let no_type = |word: &str, name: &str| {
        let known: Vec<&str> = Resource::ALL.iter().map(|resource| resource.plural()).collect();
        failure(Kind::Invalid, format!("{word:?} is no type of {}: {}", known.join(", "), untyped(name)))
    };
    let typed = |word: &str| word.split_once('/').and_then(|(of, name)| Some((Resource::of(of)?, name.to_owned())));
    if first.contains('/') {
        let mut list: Vec<Wanted> = Vec::new();
        for word in words {
            let (resource, name) = typed(word).ok_or_else(|| no_type(word.split('/').next().unwrap_or(word), word))?;
            match list.iter_mut().find(|wanted| wanted.resource == resource) {
                Some(wanted) => wanted.names.push(name),
                None => list.push(Wanted { resource, names: vec![name] }),
            }
        }
        return Ok(list);
    }
    let names = &words[1..];
    if let Some(word) = names.iter().find(|word| typed(word).is_some()) {
        return Err(failure(Kind::Invalid, format!("{word:?} names its type: leave {first:?} away")));
    }
    first
        .split(',')
        .map(|word| {
            let resource = Resource::of(word).ok_or_else(|| no_type(word, word))?;
            Ok(Wanted { resource, names: names.to_vec() })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> Result<Vec<(Resource, Vec<String>)>, String> {
        let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        let list = wanted(&words, |name| format!("rm {name}")).map_err(|error| format!("{error:#}"))?;
        Ok(list.into_iter().map(|wanted| (wanted.resource, wanted.names)).collect())
    }

    #[test]
    fn types_and_names_are_kubectls() {
        use Resource::*;
        type Row<'a> = (&'a str, &'a [(Resource, &'a [&'a str])]);
        let rows: [Row<'_>; 9] = [
            ("", &[]),
            ("svc", &[(Services, &[])]),
            ("Service web shop/db", &[(Services, &["web", "shop/db"])]),
            ("po,ns", &[(Pods, &[]), (Namespaces, &[])]),
            ("ep,endpointslices web", &[(Endpoints, &["web"]), (EndpointSlices, &["web"])]),
            ("netpol/deny pod/web netpol/other", &[(NetworkPolicies, &["deny", "other"]), (Pods, &["web"])]),
            ("networkpolicy.networking.k8s.io/deny", &[(NetworkPolicies, &["deny"])]),
            ("svc/shop/web", &[(Services, &["shop/web"])]),
            ("pods default/web", &[(Pods, &["default/web"])]),
        ];
        for (line, expected) in rows {
            let expected: Vec<(Resource, Vec<String>)> =
                expected.iter().map(|(of, names)| (*of, names.iter().map(ToString::to_string).collect())).collect();
            assert_eq!(read(line), Ok(expected), "{line}");
        }
        for resource in Resource::ALL {
            assert_eq!(Resource::of(resource.prefix()), Some(resource));
        }
        let no_type = "is no type of pods, services, endpoints, endpointslices, networkpolicies, namespaces: rm";
        assert_eq!(read("web"), Err(format!("\"web\" {no_type} web")));
        assert_eq!(read("shop/web"), Err(format!("\"shop\" {no_type} shop/web")));
        assert_eq!(read("svc/web db"), Err(format!("\"db\" {no_type} db")));
        assert_eq!(read("pods svc/web"), Err("\"svc/web\" names its type: leave \"pods\" away".to_owned()));
    }
}
