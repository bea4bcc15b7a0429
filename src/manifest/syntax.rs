//! The grammars of names and values, as apimachinery's `validation` package has them.

/// A grammar: the error says what a text must be.
pub(super) type Rule = fn(&str) -> Result<(), String>;

/// Lower case letters, digits and `-`, at most 63 (RFC 1123 label).
pub(crate) fn dns_label(name: &str) -> Result<(), String> {
    let rule = "must consist of lower case letters, digits and `-`, begin and end with a letter or digit, and have at most 63 characters";
    if is_label(name) { Ok(()) } else { Err(rule.to_owned()) }
}

/// Labels joined by dots, at most 253 (RFC 1123 subdomain).
pub(super) fn dns_subdomain(name: &str) -> Result<(), String> {
    let rule = "must consist of lower case letters, digits, `-` and `.`, begin and end with a letter or digit, and have at most 253 characters";
    if name.len() <= 253 && name.split('.').all(is_label_of_any_length) { Ok(()) } else { Err(rule.to_owned()) }
}

fn is_label(name: &str) -> bool {
    name.len() <= 63 && is_label_of_any_length(name)
}

fn is_label_of_any_length(name: &str) -> bool {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    !name.is_empty() && name.bytes().all(inner) && !name.starts_with('-') && !name.ends_with('-')
}

/// What a bad name would be if it were good.
pub(super) fn as_label(name: &str) -> Option<String> {
    if !name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, ' ' | '_' | '-' | '.' | '/')) {
        return None;
    }
    let mapped: String =
        name.to_lowercase().chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).take(63).collect();
    Some(mapped.trim_matches('-').to_owned()).filter(|label| is_label(label))
}

/// A key of labels and annotations: an optional DNS prefix and `/`, then a name of at most 63.
pub(super) fn qualified_key(key: &str) -> Result<(), String> {
    let (prefix, name) = key.split_once('/').map_or((None, key), |(p, n)| (Some(p), n));
    if prefix.is_some_and(|p| dns_subdomain(&p.to_lowercase()).is_err()) {
        return Err("the part before `/` must be a DNS name".to_owned());
    }
    if is_qualified(name) {
        return Ok(());
    }
    Err("must consist of letters, digits, `-`, `_` and `.`, begin and end with a letter or digit, and have at most 63 characters".to_owned())
}

/// A label's value: empty or like a key's name.
pub(super) fn label_value(value: &str) -> Result<(), String> {
    if value.is_empty() || is_qualified(value) {
        return Ok(());
    }
    Err("must be empty or consist of letters, digits, `-`, `_` and `.`, begin and end with a letter or digit, and have at most 63 characters".to_owned())
}

fn is_qualified(name: &str) -> bool {
    let end = |b: Option<u8>| b.is_some_and(|b| b.is_ascii_alphanumeric());
    let inner = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    name.len() <= 63 && end(name.bytes().next()) && end(name.bytes().last()) && name.bytes().all(inner)
}

/// A key of a ConfigMap or a Secret, which may become a file's name.
pub(super) fn data_key(key: &str) -> Result<(), String> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    if key.is_empty() || key.len() > 253 || !key.bytes().all(plain) {
        return Err("must consist of letters, digits, `-`, `_` and `.`, and have at most 253 characters".to_owned());
    }
    if key == "." || key.starts_with("..") {
        return Err("must not be `.` or begin with `..`".to_owned());
    }
    Ok(())
}

/// A CronJob's schedule: five fields, or a name like `@daily`.
pub(super) fn schedule(schedule: &str) -> Result<(), String> {
    const NAMES: [&str; 7] = ["@yearly", "@annually", "@monthly", "@weekly", "@daily", "@midnight", "@hourly"];
    let every = schedule.strip_prefix("@every ").is_some_and(|rest| !rest.trim().is_empty());
    let allowed = |c: char| c.is_ascii_alphanumeric() || "*/,-?".contains(c);
    let is_field = |field: &str| !field.is_empty() && field.chars().all(allowed);
    let fields: Vec<&str> = schedule.split_ascii_whitespace().collect();
    if every || NAMES.contains(&schedule) || fields.len() == 5 && fields.iter().all(|f| is_field(f)) {
        return Ok(());
    }
    Err("must be five fields (minute, hour, day of the month, month, day of the week) or one of @hourly, @daily, @weekly, @monthly, @yearly".to_owned())
}

/// A path of a file within a volume: relative, and nothing that the volume's own links could be taken for.
pub(super) fn volume_path(path: &str) -> Result<(), String> {
    relative_path(path)?;
    if path.is_empty() || path.ends_with('/') || path.starts_with("..") {
        return Err("must be a relative path of a file that does not begin with `..`".to_owned());
    }
    Ok(())
}

/// A port's name (IANA service name).
pub(super) fn port_name(name: &str) -> Result<(), String> {
    let has_letter = name.bytes().any(|b| b.is_ascii_lowercase());
    if name.len() <= 15 && is_label(name) && has_letter && !name.contains("--") {
        return Ok(());
    }
    Err("must consist of lower case letters, digits and single `-`, hold a letter, begin and end with a letter or digit, and have at most 15 characters".to_owned())
}

/// An environment variable's name: printable ASCII without `=` (relaxed rule, since Kubernetes 1.34).
pub(super) fn env_name(name: &str) -> Result<(), String> {
    if !name.is_empty() && name.bytes().all(|b| (0x20..0x7f).contains(&b) && b != b'=') {
        return Ok(());
    }
    Err("must consist of printable ASCII characters other than `=`".to_owned())
}

/// A search domain of resolv.conf: a DNS name, perhaps with `_` and a final dot, or `.` alone.
pub(super) fn search_domain(domain: &str) -> Result<(), String> {
    let trimmed = domain.strip_suffix('.').unwrap_or(domain);
    if domain == "." || dns_subdomain(&trimmed.to_lowercase().replace('_', "x")).is_ok() {
        return Ok(());
    }
    Err("must be a DNS name".to_owned())
}

/// Where a probe or a hook connects to: an IP address or a DNS name, nothing around it.
pub(super) fn host(host: &str) -> Result<(), String> {
    let name = host.strip_suffix('.').unwrap_or(host).to_lowercase().replace('_', "x");
    if host.parse::<std::net::IpAddr>().is_ok() || dns_subdomain(&name).is_ok() {
        return Ok(());
    }
    Err("must be an IP address or a DNS name".to_owned())
}

/// A header field's name, as Kubernetes allows them (narrower than RFC 9110's token).
pub(super) fn header_name(name: &str) -> Result<(), String> {
    if !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') {
        return Ok(());
    }
    Err("must consist of letters, digits and `-`".to_owned())
}

/// A header field's value: one line (RFC 9110, 5.5).
pub(super) fn header_value(value: &str) -> Result<(), String> {
    if value.chars().all(|c| !c.is_control() || c == '\t') {
        return Ok(());
    }
    Err("must be one line without control characters".to_owned())
}

/// Path and query of a URL.
pub(super) fn url_path(path: &str) -> Result<(), String> {
    if path.starts_with("http://") || path.starts_with("https://") {
        return Err("must be a path only: `scheme`, `host` and `port` say the rest".to_owned());
    }
    if path.chars().any(char::is_control) {
        return Err("must not hold control characters".to_owned());
    }
    Ok(())
}

/// The names of `stopSignal` besides the real-time signals (k8s.io/api/core/v1, type Signal).
pub(super) const SIGNALS: [&str; 34] = [
    "SIGABRT",
    "SIGALRM",
    "SIGBUS",
    "SIGCHLD",
    "SIGCLD",
    "SIGCONT",
    "SIGFPE",
    "SIGHUP",
    "SIGILL",
    "SIGINT",
    "SIGIO",
    "SIGIOT",
    "SIGKILL",
    "SIGPIPE",
    "SIGPOLL",
    "SIGPROF",
    "SIGPWR",
    "SIGQUIT",
    "SIGSEGV",
    "SIGSTKFLT",
    "SIGSTOP",
    "SIGSYS",
    "SIGTERM",
    "SIGTRAP",
    "SIGTSTP",
    "SIGTTIN",
    "SIGTTOU",
    "SIGURG",
    "SIGUSR1",
    "SIGUSR2",
    "SIGVTALRM",
    "SIGWINCH",
    "SIGXCPU",
    "SIGXFSZ",
];

/// One of [`SIGNALS`], `SIGRTMIN` to `SIGRTMIN+15`, or `SIGRTMAX-14` to `SIGRTMAX`.
pub(super) fn signal(name: &str) -> Result<(), String> {
    let offset = |base: &str, most: u8| {
        let digits = name.strip_prefix(base)?;
        let number: u8 = digits.parse().ok().filter(|n| (1..=most).contains(n))?;
        // Neither a leading zero nor a sign.
        (number.to_string() == digits).then_some(())
    };
    let is_real_time = matches!(name, "SIGRTMIN" | "SIGRTMAX")
        || offset("SIGRTMIN+", 15).or_else(|| offset("SIGRTMAX-", 14)).is_some();
    if is_real_time || SIGNALS.contains(&name) { Ok(()) } else { Err("is not a signal".to_owned()) }
}

/// A kernel parameter's name, with dots or slashes between its parts.
pub(crate) fn sysctl(name: &str) -> Result<(), String> {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'_');
    let end = |b: Option<u8>| b.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    let is_part = |part: &str| end(part.bytes().next()) && end(part.bytes().last()) && part.bytes().all(inner);
    if name.len() <= 253 && name.split(['.', '/']).all(is_part) {
        return Ok(());
    }
    Err("must consist of parts joined by `.` or `/`, each of lower case letters, digits, `-` and `_`, beginning and ending with a letter or digit, and have at most 253 characters".to_owned())
}

/// A value that is written to a file of one line.
pub(crate) fn one_line(text: &str) -> Result<(), String> {
    if text.len() <= 4095 && text.chars().all(|c| !c.is_control() || c == '\t') {
        return Ok(());
    }
    Err("must be one line of at most 4095 bytes".to_owned())
}

/// The user, role or type of an SELinux label.
pub(crate) fn selinux_part(text: &str) -> Result<(), String> {
    if text.len() <= 255 && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.')) {
        return Ok(());
    }
    Err("must consist of letters, digits, `_`, `-` and `.`".to_owned())
}

/// The level of an SELinux label: `s0:c1,c2`.
pub(crate) fn selinux_level(text: &str) -> Result<(), String> {
    let is_plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.' | b',' | b':');
    if text.len() <= 255 && text.bytes().all(is_plain) {
        return Ok(());
    }
    Err("must consist of letters, digits, `_`, `-`, `.`, `,` and `:`".to_owned())
}

/// Printable text without blanks, for a word of resolv.conf.
pub(crate) fn word(text: &str) -> Result<(), String> {
    if text.chars().all(|c| !c.is_control() && !c.is_whitespace()) {
        return Ok(());
    }
    Err("must not hold blanks or control characters".to_owned())
}

/// No NUL, which no path, argument or variable can hold.
pub(crate) fn no_nul(text: &str) -> Result<(), String> {
    if text.contains('\0') { Err("must not hold a NUL character".to_owned()) } else { Ok(()) }
}

/// An absolute path without `..` and control characters.
pub(crate) fn absolute_path(path: &str) -> Result<(), String> {
    if !path.starts_with('/') {
        return Err("must be an absolute path".to_owned());
    }
    plain_path(path)
}

/// A relative path without `..` and control characters.
pub(crate) fn relative_path(path: &str) -> Result<(), String> {
    if path.starts_with('/') {
        return Err("must be a relative path".to_owned());
    }
    plain_path(path)
}

fn plain_path(path: &str) -> Result<(), String> {
    if path.split('/').any(|part| part == "..") {
        return Err("must not hold `..`".to_owned());
    }
    if path.chars().any(char::is_control) {
        return Err("must not hold control characters".to_owned());
    }
    if path.len() > 4095 || path.split('/').any(|part| part.len() > 255) {
        return Err("must have at most 4095 bytes, and each part at most 255".to_owned());
    }
    Ok(())
}

/// `a//b/./c/` as `a/b/c`, to tell whether two mount paths are the same.
pub(crate) fn normal_path(path: &str) -> String {
    let parts: Vec<&str> = path.split('/').filter(|p| !p.is_empty() && *p != ".").collect();
    format!("/{}", parts.join("/"))
}

/// An image reference, as far as it can be judged without parsing it.
pub(super) fn image(reference: &str) -> Result<(), String> {
    if reference.trim() != reference || reference.chars().any(char::is_whitespace) {
        return Err("must not hold blanks".to_owned());
    }
    let allowed = |c: char| c.is_ascii_alphanumeric() || "._-/:@[]+".contains(c);
    if reference.is_empty() || reference.len() > 1024 || !reference.chars().all(allowed) {
        return Err("is not an image reference".to_owned());
    }
    Ok(())
}

/// The Linux capabilities, without their `CAP_`.
pub(super) const CAPABILITIES: [&str; 41] = [
    "AUDIT_CONTROL",
    "AUDIT_READ",
    "AUDIT_WRITE",
    "BLOCK_SUSPEND",
    "BPF",
    "CHECKPOINT_RESTORE",
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "IPC_LOCK",
    "IPC_OWNER",
    "KILL",
    "LEASE",
    "LINUX_IMMUTABLE",
    "MAC_ADMIN",
    "MAC_OVERRIDE",
    "MKNOD",
    "NET_ADMIN",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_RAW",
    "PERFMON",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYSLOG",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_CHROOT",
    "SYS_MODULE",
    "SYS_NICE",
    "SYS_PACCT",
    "SYS_PTRACE",
    "SYS_RAWIO",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "WAKE_ALARM",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_values_follow_their_grammars() {
        let (long, line) = ("a".repeat(64), "a".repeat(4096));
        let cases: Vec<(&str, Rule, Vec<&str>, Vec<&str>)> = vec![
            (
                "label",
                dns_label,
                vec!["a", "my-app", "0a"],
                vec!["", "-a", "a-", "A", "a.b", "a_b", "../x", "a\n", "\u{1b}[1m", &long],
            ),
            ("subdomain", dns_subdomain, vec!["a", "a.b-c.d"], vec!["", ".a", "a..b", "A", "a/b"]),
            (
                "key",
                qualified_key,
                vec!["app", "app.kubernetes.io/name", "A_b"],
                vec!["", "/a", "a/", "a b", "-a", &long],
            ),
            ("label value", label_value, vec!["", "v1.2", "A"], vec!["-", "a b", "é", &long]),
            ("port", port_name, vec!["http", "a-1"], vec!["", "1", "a--b", "HTTP", "0123456789abcdef"]),
            ("env", env_name, vec!["A", "a b", "my.var", "1A"], vec!["", "A=B", "A\n", "é"]),
            (
                "host",
                host,
                vec!["127.0.0.1", "::1", "a.b", "A_b", "a."],
                vec!["", "a:80", "[::1]", "http://a", "a/b", "a b"],
            ),
            (
                "sysctl",
                sysctl,
                vec!["kernel.shmmax", "net/ipv4/tcp_rmem", "net.ipv4.conf.eth0-1/x.rp_filter", "a"],
                vec!["", "a..b", "net.ipv4/../../kernel/core_pattern", "/a", "a/", "A.b", "a b", "a._b", "a.b\n", "é"],
            ),
            ("one line", one_line, vec!["", "0 1\t2", "a=b"], vec!["1\n2", "\r", "\0", &line]),
            ("label part", selinux_part, vec!["", "container_t"], vec!["a:b", "a b", "a\n"]),
            ("level", selinux_level, vec!["", "s0:c1,c2", "s0-s0:c0.c1023"], vec!["s0 c1", "s0\n"]),
            ("header", header_name, vec!["Host", "X-A1"], vec!["", "X_A", "a b", "A:", "é", "A\r\n"]),
            ("header value", header_value, vec!["", "a\tb", "é", "Bearer x"], vec!["a\nb", "a\r", "\0"]),
            (
                "url path",
                url_path,
                vec!["/", "healthz", "/a?b=http://c"],
                vec!["http://a/", "https://a", "/\n", "/ HTTP/1.1\r\nX: y"],
            ),
            (
                "signal",
                signal,
                vec!["SIGTERM", "SIGCLD", "SIGRTMIN", "SIGRTMIN+1", "SIGRTMIN+15", "SIGRTMAX-14", "SIGRTMAX-1"],
                vec![
                    "",
                    "TERM",
                    "15",
                    "sigterm",
                    "SIGRTMIN+16",
                    "SIGRTMAX-15",
                    "SIGRTMIN+0",
                    "SIGRTMIN+01",
                    "SIGRTMAX-",
                ],
            ),
            ("search", search_domain, vec!["a.b", "a.b.", ".", "_x.a"], vec!["", "a b", "a\nnameserver 1.2.3.4"]),
            ("absolute", absolute_path, vec!["/", "/a/b..c"], vec!["a", "/a/..", "/a/../b", "/a\n"]),
            ("relative", relative_path, vec!["a", "a/b", "..a"], vec!["/a", "..", "a/../b", "a\0"]),
            (
                "image",
                image,
                vec!["busybox", "a/b:1@sha256:00", "[::1]:5000/a"],
                vec!["", " a", "a b", "\u{201c}a\u{201d}", "a\u{1b}"],
            ),
        ];
        for (name, check, good, bad) in cases {
            for text in good {
                assert!(check(text).is_ok(), "{name} {text:?}");
            }
            for text in bad {
                assert!(check(text).is_err(), "{name} {text:?}");
            }
        }
    }

    #[test]
    fn a_bad_name_has_a_good_neighbour() {
        assert_eq!(as_label("My App").as_deref(), Some("my-app"));
        assert_eq!(as_label("__").as_deref(), None);
    }
}
