//! Makes certificates as PEM files, runs nodes with them, says who may subscribe, and renews one while they run.
//!
//! ```text
//!   node "shop"                       node "billing-1"         node "guest"
//!   [ orders ] for billing-* ───────► 1000 orders        ╳ ──► refused
//!   1000 receipts ◄──────────────── [ receipts ], from a connection that uses the new certificate
//! ```
//!
//! With a folder and names (`-- DIR server worker-1`), it makes certificates for nodes of these names and nothing else: each in
//! a folder of its own, as `node.pem`, `node.key` and `ca.pem`. Other examples take such a folder as their `--identity`. Name all
//! nodes at once: each run has an authority of its own.
//!
//! In production the authority is one of your own, elsewhere; nodes read what it issued with the same function. A key's file
//! is for its owner only.
//!
//! `cargo run --release --example certificates` prints
//!
//! ```text
//! wrote billing-1.key billing-1.pem ca.pem guest.key guest.pem shop.key shop.pem
//! aqueduct://demo/node/billing-1 took 1000 orders
//! node aqueduct://demo/node/guest may not subscribe to "orders"
//! aqueduct://demo/node/shop took 1000 receipts
//! ```

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use aqueduct::transport::{Access, Authority, Identity, Node};
use aqueduct::{EventStreamError, Graph, Result, SourceExt, SubscribeError};
use clap::Parser;
use tokio_stream::StreamExt;

/// Makes certificates, and runs nodes with them.
#[derive(Parser)]
struct Args {
    /// A folder: makes certificates there, and does nothing else
    #[arg(value_name = "DIR", requires = "names")]
    folder: Option<PathBuf>,
    /// The nodes that they are for
    #[arg(value_name = "NODE")]
    names: Vec<String>,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result {
    let authority = Authority::dev("demo")?;
    let args = Args::parse();
    if let Some(folder) = args.folder {
        return write_folders(&authority, &folder, args.names);
    }
    let folder = Folder::new()?;
    for name in ["shop", "billing-1", "guest"] {
        issue(&authority, name, &folder.0)?;
    }
    let files = fs::read_dir(&folder.0)?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
    let mut files = files.collect::<Result<Vec<_>>>()?;
    files.sort();
    println!("wrote {}", files.join(" "));

    // Each of these is a process on a machine of its own, elsewhere.
    let shop = Node::bind("127.0.0.1:0", read("shop", &folder.0)?).await?;
    let billing = Node::bind("127.0.0.1:0", read("billing-1", &folder.0)?).await?;
    let guest = Node::bind("127.0.0.1:0", read("guest", &folder.0)?).await?;

    let graph = Graph::new("shop");
    shop.publish_to(Access::only(["billing-*"])?, "orders", &graph.iterate("orders", || 0..1000_u32))?;
    let _running = graph.start();
    println!("{} took {} orders", billing.identity().name(), take(&billing, "orders", &shop).await?);
    match take(&guest, "orders", &shop).await {
        Err(EventStreamError::Subscribe(SubscribeError::Denied { reason, .. })) => println!("{reason}"),
        other => return Err(format!("the guest got {other:?}").into()),
    }

    // Before a certificate expires: new files, read by the running node. Connections from now on use them.
    issue(&authority, "billing-1", &folder.0)?;
    billing.set_identity(read("billing-1", &folder.0)?)?;
    let graph = Graph::new("billing");
    billing.publish("receipts", &graph.iterate("receipts", || 0..1000_u32))?;
    let _running = graph.start();
    println!("{} took {} receipts", shop.identity().name(), take(&shop, "receipts", &billing).await?);
    Ok(())
}

/// Makes a folder for each node. The authority is not kept: a further node needs a further run, for all of them.
fn write_folders(authority: &Authority, folder: &Path, names: Vec<String>) -> Result {
    fs::create_dir_all(folder)?;
    if fs::read_dir(folder)?.next().is_some() {
        return Err(
            format!("{} is not empty: certificates of another run are of no use with these", folder.display()).into()
        );
    }
    for name in names {
        let (pem, folder) = (authority.issue(&name)?.to_pem(), folder.join(&name));
        fs::create_dir(&folder)?;
        fs::write(folder.join("ca.pem"), pem.authorities)?;
        fs::write(folder.join("node.pem"), pem.certificate)?;
        private(&folder.join("node.key"))?.write_all(pem.key.as_bytes())?;
        println!("wrote {}", folder.display());
    }
    Ok(())
}

/// Counts what a node gets of a producer on another one.
async fn take(node: &Node, name: &str, from: &Node) -> Result<usize, EventStreamError> {
    let source = node.source::<u32>(name, from.local_addr());
    let events: Vec<u32> = source.events(50..100).collect::<Result<_, _>>().await?;
    Ok(events.len())
}

/// Issues a certificate to a node, as files that are named after it.
fn issue(authority: &Authority, name: &str, folder: &Path) -> Result {
    let pem = authority.issue(name)?.to_pem();
    fs::write(folder.join("ca.pem"), pem.authorities)?;
    fs::write(folder.join(name).with_extension("pem"), pem.certificate)?;
    private(&folder.join(name).with_extension("key"))?.write_all(pem.key.as_bytes())?;
    Ok(())
}

fn read(name: &str, folder: &Path) -> Result<Identity> {
    let file = |extension| folder.join(name).with_extension(extension);
    Ok(Identity::from_pem_files(file("pem"), file("key"), folder.join("ca.pem"))?)
}

/// A file that only its owner may read.
fn private(path: &Path) -> Result<File> {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    Ok(options.open(path)?)
}

/// A temporary folder, removed afterwards.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Result<Self> {
        let path = std::env::temp_dir().join(format!("aqueduct-certificates-{}", std::process::id()));
        fs::create_dir_all(&path)?;
        Ok(Self(path))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
