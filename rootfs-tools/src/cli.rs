//! The command line: what goes into the image, what it runs, where it is written.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use clap::{ArgAction, ArgMatches, Args, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};
use rootfs_tools::busybox::{self, Links};
use rootfs_tools::clock::source_date_epoch;
use rootfs_tools::debian::{self, Debian, Docs};
use rootfs_tools::oci::archive::{Form, Scratch, pack};
use rootfs_tools::oci::config::{self, Config};
use rootfs_tools::oci::layer::Compression;
use rootfs_tools::oci::layout::{Layout, MediaTypes, NewImage};
use rootfs_tools::oci::push::Registry;
use rootfs_tools::oci::reference::normalise;
use rootfs_tools::source;
use rootfs_tools::tree::{Node, Tree};

/// Writes OCI images without network or other container software. The same input gives the same digest; nothing in an
/// image is dated later than SOURCE_DATE_EPOCH (default 0).
#[derive(Debug, Parser)]
#[command(name = "rootfs-tools", version, max_term_width = 120)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// A static busybox with all its applets.
    Busybox {
        /// The binary; Debian's package busybox-static has it here.
        #[arg(default_value = busybox::DEFAULT_BINARY)]
        binary: PathBuf,
        /// Applets as symlinks instead of hard links.
        #[arg(long)]
        symlinks: bool,
        #[command(flatten)]
        image: ImageArgs,
    },
    /// The content of a folder.
    Dir {
        /// The folder.
        dir: PathBuf,
        #[command(flatten)]
        image: ImageArgs,
    },
    /// The content of a tar, gzip or not; `-` is stdin.
    Tar {
        /// The tar.
        file: PathBuf,
        #[command(flatten)]
        image: ImageArgs,
    },
    /// A Debian tree, by mmdebstrap with this machine's package sources.
    Debian {
        /// Packages, separated by commas.
        #[arg(long, value_delimiter = ',', required = true)]
        include: Vec<String>,
        /// mmdebstrap's variant. `extract` runs no maintainer script and is the smallest.
        #[arg(long, default_value = "extract")]
        variant: String,
        /// The release's name; this machine's own by default.
        #[arg(long)]
        suite: Option<String>,
        /// Keep manuals, documentation and translations.
        #[arg(long)]
        keep_docs: bool,
        /// Leave out this path; with a final `*`, all that begin so. Repeatable.
        #[arg(long, value_name = "PATH")]
        exclude: Vec<PathBuf>,
        #[command(flatten)]
        image: ImageArgs,
    },
    /// One static program, which is also the entrypoint unless another is given.
    Program {
        /// The binary.
        binary: PathBuf,
        /// Its name in the image; its file name by default.
        #[arg(long)]
        name: Option<String>,
        /// Add /etc/passwd, /etc/group, /tmp and home folders.
        #[arg(long)]
        basics: bool,
        #[command(flatten)]
        image: ImageArgs,
    },
    /// Packs images of a layout folder into one file.
    Pack {
        /// The layout.
        layout: PathBuf,
        /// Only this image. Repeatable; all by default.
        #[arg(long = "tag", value_name = "REF")]
        tags: Vec<String>,
        /// The form of the file.
        #[arg(long, value_enum, default_value_t = Format::OciArchive)]
        format: Format,
        /// The file; `-` is stdout.
        #[arg(short, long, value_name = "FILE")]
        output: PathBuf,
    },
    /// Joins images of a layout folder, one for each platform, into an index that has a name of its own.
    Index {
        /// The layout.
        layout: PathBuf,
        /// An image in it. Repeatable.
        #[arg(long = "image", value_name = "REF", required = true)]
        images: Vec<String>,
        /// The index's name. Repeatable.
        #[arg(long = "tag", value_name = "REF", required = true)]
        tags: Vec<String>,
        /// In whose words the index is written.
        #[arg(long, value_enum, default_value_t = Types::Oci)]
        types: Types,
    },
    /// Pushes all images of a layout folder to a registry without TLS or logins, under their names without domain.
    Push {
        /// The layout.
        layout: PathBuf,
        /// HOST:PORT.
        registry: String,
    },
    /// Lists the images of a layout folder: digest and reference.
    List {
        /// The layout.
        layout: PathBuf,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// A layout folder; an image with the same reference is replaced.
    Oci,
    /// A layout as one tar.
    OciArchive,
    /// What `docker load` reads.
    DockerArchive,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Types {
    /// OCI image specification.
    Oci,
    /// Docker's image manifest version 2, schema 2.
    Docker,
}

#[derive(Debug, Args)]
struct ImageArgs {
    /// The image's name. Repeatable.
    #[arg(long = "tag", value_name = "REF", required = true)]
    tags: Vec<String>,
    /// A JSON array, or one word; repeatable.
    #[arg(long, value_name = "WORD", allow_hyphen_values = true)]
    entrypoint: Vec<String>,
    /// A JSON array, or one word; repeatable.
    #[arg(long, value_name = "WORD", allow_hyphen_values = true)]
    cmd: Vec<String>,
    /// An environment variable. Repeatable.
    #[arg(long, value_name = "NAME=VALUE")]
    env: Vec<String>,
    /// USER, UID, USER:GROUP or UID:GID.
    #[arg(long, default_value = "")]
    user: String,
    /// Where the command starts.
    #[arg(long, value_name = "PATH", default_value = "")]
    workdir: String,
    /// PORT[/tcp|/udp|/sctp]. Repeatable.
    #[arg(long, value_name = "PORT")]
    expose: Vec<String>,
    /// A path that holds data. Repeatable.
    #[arg(long, value_name = "PATH")]
    volume: Vec<String>,
    /// Repeatable.
    #[arg(long, value_name = "NAME=VALUE")]
    label: Vec<String>,
    /// The signal that ends a container of the image.
    #[arg(long, value_name = "SIGNAL", default_value = "")]
    stop_signal: String,
    /// In Go's words; this machine's by default.
    #[arg(long, default_value = "")]
    arch: String,
    /// A static busybox whose applets fill the first layer where it has nothing.
    #[arg(long, value_name = "BUSYBOX")]
    applets: Option<PathBuf>,
    /// An empty folder in the first layer. Repeatable.
    #[arg(long, value_name = "PATH")]
    mkdir: Vec<PathBuf>,
    /// One more layer, from a folder or a tar. Repeatable, from the bottom up.
    #[arg(long = "layer", value_name = "DIR|TAR")]
    layers: Vec<PathBuf>,
    /// A whiteout in the layer named last before this (or a layer of its own). Repeatable.
    #[arg(long, value_name = "PATH")]
    delete: Vec<PathBuf>,
    /// An opaque whiteout, likewise. Repeatable.
    #[arg(long, value_name = "DIR")]
    opaque: Vec<PathBuf>,
    /// Layers with gzip (the default).
    #[arg(long, action = ArgAction::SetTrue, overrides_with = "uncompressed")]
    gzip: bool,
    /// Layers without compression.
    #[arg(long, action = ArgAction::SetTrue, overrides_with = "gzip")]
    uncompressed: bool,
    /// In whose words manifest, configuration and layers are named.
    #[arg(long, value_enum, default_value_t = Types::Oci)]
    types: Types,
    /// The form of the output.
    #[arg(long, value_enum, default_value_t = Format::Oci)]
    format: Format,
    /// A folder for `oci`, else a file; `-` is stdout.
    #[arg(short, long, value_name = "OUT")]
    output: PathBuf,
}

/// A step of the layers' story, in the order of the command line.
enum Step<'a> {
    Layer(&'a Path),
    Delete(&'a Path),
    Opaque(&'a Path),
}

/// Parses the command line and does what it says.
pub(crate) fn run() -> Result<()> {
    let matches = Cli::command().get_matches();
    let cli = Cli::from_arg_matches(&matches).unwrap_or_else(|e| e.exit());
    let matches = matches.subcommand().map(|(_, m)| m).context("no subcommand")?;
    let epoch = source_date_epoch()?;
    match cli.verb {
        Verb::Busybox { binary, symlinks, image } => {
            let links = if symlinks { Links::Symbolic } else { Links::Hard };
            let mut config = image.config()?;
            config.default_path();
            if config.entrypoint.is_empty() && config.cmd.is_empty() {
                config.cmd = vec!["sh".to_string()];
            }
            image.write(matches, busybox::tree(&binary, links)?, &config)
        }
        Verb::Dir { dir, image } => image.write(matches, source::from_dir(&dir)?, &image.config()?),
        Verb::Tar { file, image } => image.write(matches, source::open(&file)?, &image.config()?),
        Verb::Debian { include, variant, suite, keep_docs, exclude, image } => {
            let mut config = image.config()?;
            config.default_path();
            let tree = debian::tree(&Debian {
                include,
                variant,
                suite: suite.map_or_else(own_suite, Ok)?,
                docs: if keep_docs { Docs::Keep } else { Docs::Drop },
                exclude,
                applets: image.applets.clone(),
                epoch,
            })?;
            image.write(matches, tree, &config)
        }
        Verb::Program { binary, name, basics, image } => {
            let name = match name {
                Some(name) => name,
                None => binary.file_name().context("the program has no name")?.display().to_string(),
            };
            let mut tree = busybox::program(&binary, &name)?;
            if basics {
                busybox::add_basics(&mut tree)?;
            }
            let mut config = image.config()?;
            if config.entrypoint.is_empty() {
                config.entrypoint = vec![format!("/{name}")];
            }
            image.write(matches, tree, &config)
        }
        Verb::Pack { layout, tags, format, output } => {
            let references = references_of(&tags)?;
            pack(&Layout::open(&layout)?, &references, format.form()?, &output)
        }
        Verb::Index { layout, images, tags, types } => {
            let (images, tags) = (references_of(&images)?, references_of(&tags)?);
            let digest = Layout::open(&layout)?.add_index(&images, &tags, types.words())?;
            println!("{digest} {}", tags.join(" "));
            Ok(())
        }
        Verb::Push { layout, registry } => {
            let layout = Layout::open(&layout)?;
            let mut registry = Registry::new(&registry);
            for entry in layout.entries()? {
                println!("{}", registry.push(&layout, &entry)?);
            }
            Ok(())
        }
        Verb::List { layout } => {
            for entry in Layout::open(&layout)?.entries()? {
                let digest = entry.descriptor["digest"].as_str().unwrap_or_default();
                println!("{digest} {}", entry.reference.unwrap_or_default());
            }
            Ok(())
        }
    }
}

/// References in full.
fn references_of(tags: &[String]) -> Result<Vec<String>> {
    tags.iter().map(|tag| normalise(tag)).collect()
}

impl Types {
    fn words(self) -> MediaTypes {
        match self {
            Types::Oci => MediaTypes::Oci,
            Types::Docker => MediaTypes::Docker,
        }
    }
}

impl Format {
    fn form(self) -> Result<Form> {
        match self {
            Format::OciArchive => Ok(Form::Oci),
            Format::DockerArchive => Ok(Form::Docker),
            Format::Oci => anyhow::bail!("a layout folder is not packed: use oci-archive or docker-archive"),
        }
    }
}

impl ImageArgs {
    fn config(&self) -> Result<Config> {
        let pair = |text: &String| -> Result<(String, String)> {
            let (name, value) = text.split_once('=').with_context(|| format!("{text:?}: expected NAME=VALUE"))?;
            ensure!(!name.is_empty(), "{text:?}: expected NAME=VALUE");
            Ok((name.to_string(), value.to_string()))
        };
        for text in &self.env {
            pair(text).context("--env")?;
        }
        let mut config = Config {
            user: self.user.clone(),
            exposed_ports: self.expose.iter().map(|p| config::port(p)).collect::<Result<_>>().context("--expose")?,
            env: self.env.clone(),
            entrypoint: config::words(&self.entrypoint).context("--entrypoint")?,
            cmd: config::words(&self.cmd).context("--cmd")?,
            volumes: self.volume.iter().cloned().collect(),
            working_dir: self.workdir.clone(),
            labels: self.label.iter().map(pair).collect::<Result<_>>().context("--label")?,
            stop_signal: self.stop_signal.clone(),
            architecture: self.arch.clone(),
        };
        if self.applets.is_some() {
            config.default_path();
        }
        Ok(config)
    }

    /// Writes the image whose first layer is `base`, and prints its digest and names.
    fn write(&self, matches: &ArgMatches, mut base: Tree, config: &Config) -> Result<()> {
        if let Some(binary) = &self.applets {
            busybox::add_applets(&mut base, binary, Links::Symbolic)?;
            busybox::add_basics(&mut base)?;
        }
        for dir in &self.mkdir {
            base.insert_missing(dir, Node::dir()).context("--mkdir")?;
        }
        let references = references_of(&self.tags)?;
        let mut trees = vec![base];
        trees.extend(self.upper_layers(matches)?);
        let scratch = match self.format {
            Format::Oci => None,
            _ if self.output == Path::new("-") => Some(Scratch::beside(&std::env::temp_dir().join("rootfs-tools"))?),
            _ => Some(Scratch::beside(&self.output)?),
        };
        let root = scratch.as_ref().map_or(self.output.clone(), |s| s.path().join("layout"));
        let layout = Layout::open_or_create(&root)?;
        let compression = if self.uncompressed { Compression::None } else { Compression::Gzip };
        let epoch = source_date_epoch()?;
        let layers = trees.iter().map(|t| layout.add_layer(t, epoch, compression)).collect::<Result<Vec<_>>>()?;
        let types = self.types.words();
        let image = NewImage { config, layers: &layers, created: epoch, references: &references, types };
        let digest = layout.add_image(&image)?;
        if self.format != Format::Oci {
            pack(&layout, &references, self.format.form()?, &self.output)?;
        }
        if self.output != Path::new("-") {
            println!("{digest} {}", references.join(" "));
        }
        Ok(())
    }

    /// The layers above the first, as `--layer`, `--delete` and `--opaque` tell them in the order of the command line.
    fn upper_layers(&self, matches: &ArgMatches) -> Result<Vec<Tree>> {
        let at = |id: &str| matches.indices_of(id).into_iter().flatten().collect::<Vec<_>>();
        let layers = self.layers.iter().map(|p| Step::Layer(p)).zip(at("layers"));
        let deletes = self.delete.iter().map(|p| Step::Delete(p)).zip(at("delete"));
        let opaques = self.opaque.iter().map(|p| Step::Opaque(p)).zip(at("opaque"));
        let mut steps: Vec<_> = layers.chain(deletes).chain(opaques).collect();
        steps.sort_by_key(|(_, index)| *index);
        let mut trees: Vec<Tree> = Vec::new();
        for (step, _) in steps {
            if trees.is_empty() && !matches!(step, Step::Layer(_)) {
                trees.push(Tree::new());
            }
            match (step, trees.last_mut()) {
                (Step::Delete(path), Some(top)) => top.delete(path).context("--delete")?,
                (Step::Opaque(path), Some(top)) => top.opaque(path).context("--opaque")?,
                (Step::Layer(path), _) => trees.push(source::open(path).context("--layer")?),
                (_, None) => unreachable!("a layer was made above"),
            }
        }
        Ok(trees)
    }
}

/// This machine's release, from os-release(5).
fn own_suite() -> Result<String> {
    let text = fs::read_to_string("/etc/os-release").context("reading /etc/os-release")?;
    let line = text.lines().find_map(|l| l.strip_prefix("VERSION_CODENAME="));
    Ok(line.context("/etc/os-release names no release: give --suite")?.trim_matches('"').to_string())
}
