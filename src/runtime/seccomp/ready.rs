//! The filter of most containers, compiled when podshim was built: `RuntimeDefault` with the capabilities of a container that names
//! none. To compile it is most of a millisecond in a process that does it once, and four KiB of each supervisor's memory.

use libc::sock_filter;

/// The digest of the profile, of [`DIGEST`] bytes, and the program's instructions as the kernel has them (linux/filter.h): written by
/// this room's test.
const FILE: &[u8] = include_bytes!("ready.x86_64.bpf");

/// SHA-256.
const DIGEST: usize = 32;

const COUNT: usize = (FILE.len() - DIGEST) / size_of::<sock_filter>();

static PROGRAM: [sock_filter; COUNT] = {
    let mut program = [sock_filter { code: 0, jt: 0, jf: 0, k: 0 }; COUNT];
    let (mut n, mut rest) = (0, FILE.split_at(DIGEST).1);
    while let [code_low, code_high, jt, jf, k0, k1, k2, k3, after @ ..] = rest {
        let (code, k) = (u16::from_le_bytes([*code_low, *code_high]), u32::from_le_bytes([*k0, *k1, *k2, *k3]));
        program[n] = sock_filter { code, jt: *jt, jf: *jf, k };
        (n, rest) = (n + 1, after);
    }
    program
};

/// The program of a profile, by its digest, if it is that one.
pub(super) fn program(profile: [u8; DIGEST]) -> Option<&'static [sock_filter]> {
    FILE.starts_with(&profile).then_some(&PROGRAM)
}
