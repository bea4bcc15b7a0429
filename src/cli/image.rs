//! `podshim image …`, in podman's and Docker's words.

use super::output::Out;
use super::ps::warn;
use crate::error::{Kind, failure};
use crate::image::archive::{Format, Import, Source};
use crate::image::manifest::Platform;
use crate::image::progress::{Progress, for_stderr, human_size};
use crate::image::remove::Removed;
use crate::image::store::Listed;
use crate::image::{Quiet, Reference, Store, parse_reference};
use crate::paths::Dirs;
use crate::store;
use crate::sys::Called;
use anyhow::{Context, Result, ensure};
use clap::{Args, Subcommand, ValueEnum};
use std::collections::BTreeSet;
use std::fs::File;
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};

/// `podshim image`.
#[derive(Debug, Args)]
pub(super) struct ImageArgs {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Fetch an image from its registry
    Pull(PullArgs),
    /// List images
    #[command(alias = "list")]
    Ls(LsArgs),
    /// Take names away from images; an image goes with its last name
    #[command(alias = "remove")]
    Rm {
        /// Names or IDs
        #[arg(required = true, value_name = "IMAGE")]
        images: Vec<String>,
    },
    /// Show all that is known of images, as JSON
    Inspect {
        /// Names or IDs
        #[arg(required = true, value_name = "IMAGE")]
        images: Vec<String>,
    },
    /// Take in images from an OCI layout (folder or tar) or a docker-archive tar
    #[command(alias = "load")]
    Import {
        /// Folder or file, also packed by gzip or zstd; - for stdin
        #[arg(value_name = "PATH")]
        path: String,
        /// Name the image so, whatever the archive says
        #[arg(long, value_name = "NAME")]
        name: Option<String>,
        /// Print only the image IDs
        #[arg(short, long)]
        quiet: bool,
    },
    /// Write images to a tar archive
    #[command(alias = "save")]
    Export(ExportArgs),
    /// Remove images without a name, damaged ones, and content that no image needs
    Prune {
        /// Also images that have a name and that no pod uses
        #[arg(short, long)]
        all: bool,
    },
}

#[derive(Debug, Args)]
struct PullArgs {
    /// Names
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<String>,
    /// Print only the image ID
    #[arg(short, long)]
    quiet: bool,
    /// Only this host's own is accepted, as os/arch
    #[arg(long, value_name = "OS/ARCH")]
    platform: Option<String>,
}

#[derive(Debug, Args)]
struct LsArgs {
    /// Print only the IDs
    #[arg(short, long)]
    quiet: bool,
    /// How to print
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    output: Output,
}

#[derive(Debug, Args)]
struct ExportArgs {
    /// Names or IDs
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<String>,
    /// File to write; stdout if missing
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Kind of archive
    #[arg(long, value_enum, default_value_t = ExportFormat::OciArchive)]
    format: ExportFormat,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    Table,
    Json,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum ExportFormat {
    OciArchive,
    DockerArchive,
}

/// Performs a subcommand. Images that pods use are not removed, and none if those are not known.
pub(super) fn run(args: ImageArgs, dirs: &Dirs) -> Result<()> {
    let in_use = || store::images_in_use(dirs);
    let out = &mut Out;
    match args.command {
        Command::Pull(args) => pull(args, dirs, out),
        Command::Ls(args) => list(&args, dirs, out),
        Command::Rm { images } => remove(&images, &Store::open(dirs)?, (&in_use()?, out)),
        Command::Inspect { images } => {
            let store = Store::open(dirs)?;
            let list = images.iter().map(|image| store.inspect(image)).collect::<Result<Vec<_>>>()?;
            print(out, &serde_json::to_string_pretty(&list)?)
        }
        Command::Import { path, name, quiet } => {
            let name = name.as_deref().map(parse_reference).transpose()?;
            let mut progress = progress(quiet);
            let import = Import { name, progress: &mut *progress };
            let loaded = Store::open(dirs)?.import(Source::open(&path)?, import)?;
            for (names, image) in loaded {
                if quiet || names.is_empty() {
                    print(out, &image.id)?;
                }
                for name in names.iter().filter(|_| !quiet) {
                    print(out, &format!("Loaded image: {}", name.familiar()))?;
                }
            }
            Ok(())
        }
        Command::Export(args) => export(args, dirs),
        Command::Prune { all } => {
            let store = Store::open(dirs)?;
            let in_use = in_use()?;
            let removed = if all { store.prune_unused(&in_use)? } else { store.prune(&in_use)? };
            removed.iter().try_for_each(|r| print(out, &shown(r)))
        }
    }
}

fn progress(quiet: impl Into<bool>) -> Box<dyn Progress> {
    if quiet.into() { Box::new(Quiet) } else { for_stderr() }
}

fn print(out: &mut dyn Write, line: &str) -> Result<()> {
    writeln!(out, "{line}").context("writing to stdout")
}

fn pull(args: PullArgs, dirs: &Dirs, out: &mut dyn Write) -> Result<()> {
    if let Some(platform) = &args.platform {
        let host = Platform::host();
        if *platform != host.to_string() {
            let text = format!("--platform {platform}: this host runs {host}, and podshim runs images on it only");
            return Err(failure(Kind::Invalid, text));
        }
    }
    let references = args.images.iter().map(|i| parse_reference(i)).collect::<Result<Vec<Reference>>>()?;
    let store = Store::open(dirs)?;
    for reference in references {
        let image = store.pull(&reference, &mut *progress(args.quiet))?;
        print(out, &image.id)?;
    }
    Ok(())
}

fn list(args: &LsArgs, dirs: &Dirs, out: &mut dyn Write) -> Result<()> {
    let (images, damaged) = Store::open(dirs)?.list()?;
    damaged.iter().for_each(warn);
    if args.quiet {
        let mut ids: Vec<&str> = images.iter().map(|l| &l.id.hex()[..12]).collect();
        ids.dedup();
        return ids.into_iter().try_for_each(|id| print(out, id));
    }
    if args.output == Output::Json {
        let list: Vec<_> = images.iter().map(as_json).collect();
        return print(out, &serde_json::to_string_pretty(&list)?);
    }
    let now = jiff::Timestamp::now();
    let mut rows = vec![["REPOSITORY", "TAG", "IMAGE ID", "CREATED", "SIZE"].map(str::to_owned)];
    rows.extend(images.iter().map(|l| row(l, now)));
    table(&rows).iter().try_for_each(|line| print(out, line))
}

fn row(listed: &Listed, now: jiff::Timestamp) -> [String; 5] {
    let name = listed.name.as_ref();
    [
        name.map_or("<none>".into(), Reference::familiar_name),
        name.and_then(Reference::tag).unwrap_or("<none>").to_owned(),
        listed.id.hex()[..12].to_owned(),
        listed.created.as_deref().and_then(|c| age(c, now)).unwrap_or_else(|| "N/A".into()),
        human_size(listed.size),
    ]
}

fn as_json(listed: &Listed) -> serde_json::Value {
    let name = listed.name.as_ref();
    serde_json::json!({
        "Id": listed.id,
        "Names": name.map(Reference::to_string).into_iter().collect::<Vec<_>>(),
        "Repository": name.map(Reference::familiar_name),
        "Tag": name.and_then(Reference::tag),
        "Digest": listed.resolved,
        "ManifestDigest": listed.digest,
        "Created": listed.created,
        "Size": listed.size,
    })
}

/// Columns two spaces apart; the last is not padded.
fn table(rows: &[[String; 5]]) -> Vec<String> {
    let width = |column: usize| rows.iter().map(|r| r[column].chars().count()).max().unwrap_or(0);
    let line = |row: &[String; 5]| {
        let cells = (0..4).map(|i| format!("{:<w$}  ", row[i], w = width(i)));
        cells.chain([row[4].clone()]).collect()
    };
    rows.iter().map(line).collect()
}

/// `3 days ago`; nothing if it is no time. Images built reproducibly are from 1970, and say so.
fn age(created: &str, now: jiff::Timestamp) -> Option<String> {
    let created: jiff::Timestamp = created.parse().ok()?;
    let seconds = (now.as_second() - created.as_second()).max(0);
    let units = [
        ("year", 31_536_000),
        ("month", 2_592_000),
        ("week", 604_800),
        ("day", 86_400),
        ("hour", 3600),
        ("minute", 60),
    ];
    let (unit, count) = units
        .iter()
        .find(|(_, length)| seconds >= *length)
        .map_or(("second", seconds), |(unit, length)| (*unit, seconds / length));
    let plural = if count == 1 { "" } else { "s" };
    Some(format!("{count} {unit}{plural} ago"))
}

fn shown(removed: &Removed) -> String {
    match removed {
        Removed::Untagged(name) => format!("Untagged: {name}"),
        Removed::Deleted(id) => format!("Deleted: {id}"),
    }
}

/// All are tried; the first error is the result.
fn remove(images: &[String], store: &Store, (in_use, out): (&BTreeSet<String>, &mut dyn Write)) -> Result<()> {
    let mut failed = None;
    for image in images {
        match store.remove(image, in_use) {
            Ok(removed) => removed.iter().try_for_each(|r| print(out, &shown(r)))?,
            Err(error) => failed = failed.or(Some(error)),
        }
    }
    failed.map_or(Ok(()), Err)
}

fn export(args: ExportArgs, dirs: &Dirs) -> Result<()> {
    let format = match args.format {
        ExportFormat::OciArchive => Format::Oci,
        ExportFormat::DockerArchive => Format::Docker,
    };
    let store = Store::open(dirs)?;
    let Some(path) = &args.output else {
        let mut out = Out;
        ensure!(!std::io::stdout().is_terminal(), "an archive is not for a terminal: use -o FILE, or redirect it");
        return store.export(&args.images, format, &mut out);
    };
    // Complete or absent: a half-written archive would be taken for a whole one.
    let part = part_path(path);
    let mut out = File::create(&part).called("open", part.display())?;
    let result = store.export(&args.images, format, &mut out).and_then(|()| {
        out.sync_all().called("fsync", part.display())?;
        Ok(std::fs::rename(&part, path).called("rename", path.display())?)
    });
    if result.is_err() {
        // The error that is returned says what is wrong; the leftover is only tidied up.
        let _ = std::fs::remove_file(&part);
    }
    result
}

fn part_path(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".part-{}", std::process::id()));
    path.with_file_name(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_are_in_words() {
        let now: jiff::Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        for (created, text) in [
            ("2025-12-31T23:59:59Z", Some("1 second ago")),
            ("2025-12-31T22:00:00Z", Some("2 hours ago")),
            ("2025-12-29T12:00:00.123456789Z", Some("2 days ago")),
            ("1970-01-01T00:00:00Z", Some("56 years ago")),
            ("2030-01-01T00:00:00Z", Some("0 seconds ago")),
            ("yesterday", None),
        ] {
            assert_eq!(age(created, now).as_deref(), text, "{created}");
        }
    }

    #[test]
    fn the_arguments_are_consistent() {
        let command = ImageArgs::augment_args(clap::Command::new("image"));
        command.clone().debug_assert();
        for line in [
            "image pull -q --platform linux/amd64 busybox",
            "image ls -o json",
            "image rm a b",
            "image import -",
            "image export --format docker-archive -o f a",
            "image prune -a",
            "image inspect a",
        ] {
            assert!(command.clone().try_get_matches_from(line.split(' ')).is_ok(), "{line}");
        }
    }

    #[test]
    fn the_store_is_shown_and_what_is_missing_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let dirs = Dirs { root: dir.path().join("lib"), state: dir.path().join("run"), ..Dirs::default() };
        let run = |line: &str| {
            let command = ImageArgs::augment_args(clap::Command::new("image"));
            let matches = command.try_get_matches_from(line.split(' ')).unwrap();
            super::run(clap::FromArgMatches::from_arg_matches(&matches).unwrap(), &dirs)
        };
        run("image ls").unwrap();
        run("image prune").unwrap();
        for (line, part, kind) in [
            ("image rm absent", "no such image: absent", Some(Kind::NotFound)),
            ("image inspect absent", "no such image: absent", Some(Kind::NotFound)),
            ("image pull Bad", "invalid image reference", Some(Kind::Invalid)),
            ("image pull --platform plan9/mips a", "this host runs", Some(Kind::Invalid)),
            ("image import /no/such/file", "ENOENT", None),
        ] {
            let error = run(line).unwrap_err();
            assert!(format!("{error:#}").contains(part), "{line}: {error:#}");
            assert_eq!(crate::error::kind_of(&error), kind, "{line}");
        }
    }

    #[test]
    fn columns_line_up() {
        let row = |a: &str| [a, "t", "id", "now", "1 B"].map(str::to_owned);
        assert_eq!(table(&[row("a"), row("long")]), ["a     t  id  now  1 B", "long  t  id  now  1 B"]);
    }
}
