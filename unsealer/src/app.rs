//! What every command has in hand: the configuration, the state folder, the servers, and whether anybody can be asked.

use std::path::{Path, PathBuf};

use crate::config::{Config, Node, Plaintext};
use crate::credentials::Asking;
use crate::error::Error;
use crate::places;
use crate::report::Progress;
use crate::slots::Slots;
use crate::state::StateFolder;
use crate::vault::{self, Address, Client, NodeState, Settings};

/// What every command has in hand.
#[derive(Debug)]
pub struct App {
    /// The configuration.
    pub config: Config,
    /// How progress is told.
    pub progress: Progress,
    /// Whether anybody can be asked.
    pub asking: Asking,
    state: PathBuf,
    nodes: Vec<Node>,
    /// Whether the nodes are those of the configuration.
    nodes_of_config: bool,
    /// Whether a flag named the one server to use.
    has_given_address: bool,
}

/// What flags say of the servers, above the configuration.
#[derive(Clone, Debug, Default)]
pub struct NodeOverride {
    /// The address of the one server to use.
    pub address: Option<String>,
    /// Its CA.
    pub ca_file: Option<PathBuf>,
}

/// A server, and how to talk to it.
#[derive(Debug)]
pub struct NodeClient {
    /// What we call it.
    pub name: String,
    /// Where it is, as the configuration says it.
    pub address: String,
    /// The file with its CA, for the set-up program.
    pub ca_file: Option<PathBuf>,
    /// How to talk to it, or why nobody can. One node that is set up wrongly must not stop the others.
    client: Result<Client, vault::Error>,
}

impl App {
    /// Puts together what a command needs.
    pub fn new(
        config: Config,
        over: NodeOverride,
        progress: Progress,
        asking: Asking,
    ) -> Result<Self, Error> {
        let has_given_address = over.address.is_some();
        let nodes_of_config = over.address.is_none() && !config.node.is_empty();
        let nodes = nodes(&config, over)?;
        Ok(Self {
            config,
            progress,
            asking,
            state: places::state_folder(),
            nodes,
            nodes_of_config,
            has_given_address,
        })
    }

    /// What the servers are, and whether the configuration says so.
    pub fn node_tables(&self) -> (&[Node], bool) {
        (&self.nodes, self.nodes_of_config)
    }

    /// Whether a flag named the one server to use: then nobody else is asked about it.
    pub fn has_given_address(&self) -> bool {
        self.has_given_address
    }

    /// The state folder, which must be there.
    pub fn state(&self) -> Result<StateFolder, Error> {
        StateFolder::open(&self.state, self.config.keyring.as_deref())
    }

    /// The state folder, made if need be.
    pub fn state_or_create(&self) -> Result<StateFolder, Error> {
        StateFolder::open_or_create(&self.state, self.config.keyring.as_deref())
    }

    /// Where the state folder is.
    pub fn state_path(&self) -> &Path {
        &self.state
    }

    /// The slots' programs.
    pub fn slots(&self, live: bool) -> Slots<'_> {
        Slots::new(&self.config, self.asking, live)
    }

    /// All servers, at least one.
    pub fn nodes(&self) -> Result<Vec<NodeClient>, Error> {
        if self.nodes.is_empty() {
            return Err(Error::Config {
                place: "the configuration".to_owned(),
                what: "has no [[node]]".to_owned(),
                hint: Some("add one, or give --address or VAULT_ADDR".to_owned()),
            });
        }
        let nodes: Vec<_> = self.nodes.iter().map(NodeClient::new).collect::<Result<_, _>>()?;
        for node in &nodes {
            if node.sends_in_clear() {
                self.progress.warn(format!(
                    "node {}: key shares travel in clear to {}, as the configuration accepts",
                    node.name, node.address
                ));
            }
        }
        Ok(nodes)
    }
}

impl NodeClient {
    /// An address that makes no sense is a mistake in the configuration; what fails beyond it is this node's affair.
    pub fn new(node: &Node) -> Result<Self, Error> {
        let address = node.address.parse().map_err(|error| Error::Vault {
            node: node.name.clone(),
            error,
        })?;
        Ok(Self {
            name: node.name.clone(),
            address: node.address.clone(),
            ca_file: node.ca_file.clone(),
            client: client(node, address),
        })
    }

    /// How to talk to it.
    pub fn client(&self) -> Result<&Client, Error> {
        self.client.as_ref().map_err(|error| self.fault(error.clone()))
    }

    /// How it is. A node that is set up wrongly is in a state that nobody knows.
    pub fn state(&self) -> Result<NodeState, Error> {
        match &self.client {
            Ok(client) => self.talk(async { Ok(client.state().await) }),
            Err(error) => Ok(NodeState::Unknown(error.clone())),
        }
    }

    /// Whether key shares travel to it in clear beyond this machine.
    pub fn sends_in_clear(&self) -> bool {
        self.client
            .as_ref()
            .is_ok_and(|client| !client.address().is_tls() && !client.address().is_loopback())
    }

    /// Runs a conversation with the server to its end.
    pub fn talk<T>(&self, conversation: impl Future<Output = Result<T, vault::Error>>) -> Result<T, Error> {
        match vault::block_on(conversation) {
            Ok(outcome) => outcome.map_err(|error| self.fault(error)),
            Err(error) => Err(Error::file(
                "start the event loop for",
                Path::new(&self.name),
                error,
            )),
        }
    }

    /// An error of this node.
    pub fn fault(&self, error: vault::Error) -> Error {
        Error::Vault {
            node: self.name.clone(),
            error,
        }
    }
}

/// The servers that a configuration names, each with an address that makes sense.
pub fn nodes_of(config: &Config) -> Result<Vec<Node>, Error> {
    for node in &config.node {
        NodeClient::new(node)?;
    }
    Ok(config.node.clone())
}

fn client(node: &Node, address: Address) -> Result<Client, vault::Error> {
    let mut settings = Settings::new(address);
    settings.ca_file.clone_from(&node.ca_file);
    settings.server_name.clone_from(&node.server_name);
    settings.client_certificate = node.client_cert.clone().zip(node.client_key.clone());
    settings.plaintext_accepted = node.plaintext == Some(Plaintext::Accepted);
    Client::new(&settings)
}

/// The servers: from flags, else from the configuration, else from the environment that `vault` and `bao` use.
///
/// The environment comes last: a variable that somebody left in a shell must not send shares elsewhere.
fn nodes(config: &Config, over: NodeOverride) -> Result<Vec<Node>, Error> {
    if let Some(address) = over.address {
        let node = Node {
            ca_file: over.ca_file,
            ..plain_node("given", address)
        };
        return Ok(vec![node]);
    }
    if !config.node.is_empty() {
        // Rather than trust something else than was asked for.
        if over.ca_file.is_some() {
            return Err(Error::Config {
                place: "--ca-file".to_owned(),
                what: "belongs to --address; the nodes in the configuration have their own".to_owned(),
                hint: Some("set ca-file in [[node]]".to_owned()),
            });
        }
        return Ok(config.node.clone());
    }
    let variable = |name: &str| {
        ["BAO_", "VAULT_"]
            .iter()
            .find_map(|prefix| std::env::var(format!("{prefix}{name}")).ok())
            .filter(|v| !v.is_empty())
    };
    let Some(address) = variable("ADDR") else {
        return Ok(Vec::new());
    };
    if variable("SKIP_VERIFY")
        .is_some_and(|value| !matches!(value.as_str(), "0" | "false" | "FALSE" | "f" | "F"))
    {
        return Err(Error::Config {
            place: "VAULT_SKIP_VERIFY".to_owned(),
            what: "asks to trust any server with the shares: refused".to_owned(),
            hint: Some("give the server's CA with VAULT_CACERT".to_owned()),
        });
    }
    Ok(vec![Node {
        ca_file: over.ca_file.or_else(|| variable("CACERT").map(PathBuf::from)),
        server_name: variable("TLS_SERVER_NAME"),
        client_cert: variable("CLIENT_CERT").map(PathBuf::from),
        client_key: variable("CLIENT_KEY").map(PathBuf::from),
        ..plain_node("environment", address)
    }])
}

fn plain_node(name: &str, address: String) -> Node {
    Node {
        name: name.to_owned(),
        address,
        ca_file: None,
        server_name: None,
        client_cert: None,
        client_key: None,
        plaintext: None,
    }
}
