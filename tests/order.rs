//! What `scripts/order.sh` traces with sees functions in every process that executes the program, in the order of their first
//! execution.

use std::path::Path;
use std::process::Command;

/// The second process executes nothing else; the third one does.
const PROGRAM: &str = r#"
#include <sys/wait.h>
#include <unistd.h>
__attribute__((noinline)) void in_child(void) { __asm__ volatile(""); }
__attribute__((noinline)) void in_parent(void) { __asm__ volatile(""); }
__attribute__((noinline)) void never(void) { __asm__ volatile(""); }
__attribute__((noinline)) void executed(void) { __asm__ volatile(""); }
int main(int count, char **words) {
    if (count > 2) never();
    if (count > 1) { executed(); return 7; }
    if (!fork()) { in_child(); _exit(0); }
    wait(0);
    in_parent();
    in_child();
    execl("/proc/self/exe", words[0], "again", (char *)0);
    return 1;
}
"#;

fn compile(source: &Path, program: &Path, options: &[&str]) {
    let status = Command::new("cc").args(options).arg("-o").arg(program).arg(source).status().unwrap();
    assert!(status.success(), "{}", source.display());
}

#[test]
fn functions_are_named_in_the_order_of_their_first_execution() {
    let scratch = tempfile::tempdir().unwrap();
    let path = |name: &str| scratch.path().join(name);
    std::fs::write(path("program.c"), PROGRAM).unwrap();
    compile(&path("program.c"), &path("program"), &["-O1", "-static", "-no-pie"]);
    let tracer = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/bench/functions.c");
    compile(&tracer, &path("functions"), &["-O2", "-Wall", "-Wextra", "-Werror"]);

    let listed = Command::new("nm").arg("--defined-only").arg(path("program")).output().unwrap();
    let listed = String::from_utf8(listed.stdout).unwrap();
    let is_ours = |name: &&str| ["main", "in_child", "in_parent", "never", "executed"].contains(name);
    let symbol = |line: &str| {
        let mut words = line.split_whitespace();
        let (address, name) = (words.next()?, words.nth(1).filter(is_ours)?);
        Some(format!("{address} {name}\n"))
    };
    std::fs::write(path("symbols"), listed.lines().filter_map(symbol).collect::<String>()).unwrap();

    let mut traced = Command::new(path("functions"));
    let status = traced.arg(path("program")).arg(path("symbols")).arg(path("names")).arg(path("program")).status();
    // The program's own exit code.
    assert_eq!(status.unwrap().code(), Some(7));
    assert_eq!(std::fs::read_to_string(path("names")).unwrap(), "main\nin_child\nin_parent\nexecuted\n");
}

#[test]
fn what_the_linker_puts_first_are_functions_each_once() {
    let text = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/first.ld")).unwrap();
    // Those of src/sys/string.rs have C's names.
    let is_function = |line: &&str| ["*(.text._R", "*(.text.mem"].iter().any(|begin| line.starts_with(begin));
    let mut functions: Vec<&str> = text.lines().filter(is_function).collect();
    assert!(functions.iter().any(|line| line.contains("7podshim10supervisor")), "no function of a supervisor");
    let count = functions.len();
    // Two lines before, two after.
    assert_eq!(text.lines().count(), count + 4);
    functions.sort_unstable();
    functions.dedup();
    assert_eq!(functions.len(), count);
}
