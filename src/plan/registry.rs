//! `imagePullSecrets`: the logins that Secrets hold. Pure.

use super::config::Login;
use crate::manifest::AdmittedPod;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value};

/// The logins of a pod's Secrets, in the order in which they are listed. A Secret that is missing, or of another type, has
/// none; what a Secret may hold beside logins (helper programs) is nobody's business here.
pub(super) fn logins(admitted: &AdmittedPod) -> Vec<Login> {
    let references = admitted.pod().spec.iter().flat_map(|spec| spec.image_pull_secrets.iter().flatten());
    let secrets = references.filter_map(|r| admitted.objects().secret(admitted.namespace(), &r.name));
    let mut list = Vec::new();
    for secret in secrets {
        let object = |key: &str| {
            let bytes = secret.values.get(key)?;
            serde_json::from_slice::<Map<String, Value>>(bytes).ok()
        };
        let auths = match secret.type_.as_str() {
            "kubernetes.io/dockerconfigjson" => {
                object(".dockerconfigjson").and_then(|all| all.get("auths")?.as_object().cloned())
            }
            "kubernetes.io/dockercfg" => object(".dockercfg"),
            _ => None,
        };
        list.extend(auths.into_iter().flatten().filter_map(|(server, entry)| login(server, &entry)));
    }
    list
}

/// An entry of `auths`: user name and password, `auth` as both in base64, or an identity token.
fn login(server: String, entry: &Value) -> Option<Login> {
    let field = |name: &str| entry.get(name).and_then(Value::as_str).filter(|text| !text.is_empty());
    let decoded = field("auth").and_then(|auth| String::from_utf8(STANDARD.decode(auth.trim()).ok()?).ok());
    let pair = decoded.as_deref().and_then(|both| both.trim_end_matches('\0').split_once(':'));
    let (username, password) = match pair {
        Some((user, password)) => (user, password),
        None => (field("username").unwrap_or(""), field("password").unwrap_or("")),
    };
    let identity_token = field("identitytoken").map(str::to_owned);
    if username.is_empty() && identity_token.is_none() {
        return None;
    }
    Some(Login {
        server,
        username: username.to_owned(),
        password: password.to_owned(),
        identity_token,
        registry_token: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn entries_of_a_docker_config() {
        let read = |entry: Value| login("r".into(), &entry).map(|l| (l.username, l.password, l.identity_token));
        let pair = |user: &str, password: &str| Some((user.to_owned(), password.to_owned(), None));
        assert_eq!(read(json!({"username": "u", "password": "p"})), pair("u", "p"));
        assert_eq!(read(json!({"auth": "dTpwOnE="})), pair("u", "p:q"));
        assert_eq!(read(json!({"auth": "dTpw", "username": "x"})), pair("u", "p"), "a kubelet takes auth over both");
        let token = Some((String::new(), String::new(), Some("t".to_owned())));
        assert_eq!(read(json!({"identitytoken": "t"})), token);
        for entry in [json!({}), json!({"auth": "!"}), json!(1), json!({"username": ""})] {
            assert_eq!(read(entry.clone()), None, "{entry}");
        }
        let shown = format!("{:?}", login("r".into(), &json!({"username": "hidden", "password": "p"})).unwrap());
        assert!(!shown.contains("hidden"), "{shown}");
    }
}
