//! A control that hands out one key and the origins it is given.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;

use parking_lot::Mutex;
use spyglass_api::auth::{ClusterKey, Require};
use spyglass_api::control::control_server::{Control as Service, ControlServer};
use spyglass_api::control::{
    Crowd, Gateway, Gateways, Key, Keys, Lease, Node, Nodes, Report, Revocation, Role, Update,
    report, update,
};
use spyglass_daemon::grpc;
use spyglass_media::{BroadcastId, ViewerId};
use tokio::sync::{broadcast, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::{KEY, Origin, Process, signer};

#[derive(Clone)]
pub struct Control {
    address: SocketAddr,
    told: Told,
    process: Process,
}

#[derive(Clone)]
struct Told {
    updates: broadcast::Sender<Update>,
    nodes: Arc<Mutex<Vec<Node>>>,
    gateways: Arc<Mutex<Vec<Gateways>>>,
    leases: Arc<Mutex<Vec<(bool, Lease)>>>,
    crowds: Arc<Mutex<Vec<Crowd>>>,
}

impl Control {
    pub async fn start(origins: &[&Origin]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let nodes = origins.iter().map(|origin| origin.node()).collect();
        let told = Told {
            updates: broadcast::Sender::new(64),
            nodes: Arc::new(Mutex::new(nodes)),
            gateways: Arc::default(),
            leases: Arc::default(),
            crowds: Arc::default(),
        };
        let service =
            ControlServer::with_interceptor(told.clone(), Require(ClusterKey::new(KEY).unwrap()));
        let serve = |listener| async {
            let server = grpc::server().add_service(service);
            server.serve_with_incoming(grpc::incoming(listener)).await.unwrap();
        };
        Self { address, told, process: Process::start(serve, listener) }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// It is gone, and its connections with it.
    pub fn kill(&self) {
        self.process.kill();
    }

    pub fn set_origins(&self, origins: &[&Origin]) {
        self.set_nodes(origins.iter().map(|origin| origin.node()).collect());
    }

    pub fn set_nodes(&self, nodes: Vec<Node>) {
        *self.told.nodes.lock() = nodes;
        let nodes = Nodes { nodes: self.told.nodes.lock().clone() };
        let _ = self.told.updates.send(Update { update: Some(update::Update::Nodes(nodes)) });
    }

    /// Edges that can be fetched through, beside the nodes named so far.
    pub fn add_edges(&self, edges: &[(&str, SocketAddr)]) {
        let mut nodes = self.told.nodes.lock();
        for (name, address) in edges {
            nodes.retain(|node| node.id != *name);
            nodes.push(Node { role: Role::Edge.into(), ..origin_node(name, *address) });
        }
        let nodes = Nodes { nodes: nodes.clone() };
        let _ = self.told.updates.send(Update { update: Some(update::Update::Nodes(nodes)) });
    }

    /// Names a broadcast's gateway; nobody: none any more.
    pub fn name(&self, broadcast: BroadcastId, gateway: &str) {
        let gateway = Gateway { broadcast: broadcast.to_string(), node: gateway.to_owned() };
        let update = Gateways { anew: false, gateways: vec![gateway] };
        self.told.gateways.lock().push(update.clone());
        let update = Some(update::Update::Gateways(update));
        let _ = self.told.updates.send(Update { update });
    }

    pub fn revoke(&self, broadcast: BroadcastId, viewer: ViewerId) {
        let revocation = Revocation {
            broadcast: broadcast.to_string(),
            viewer: viewer.to_string(),
            expires_at_ms: i64::MAX / 2,
        };
        let update = Some(update::Update::Revocation(revocation));
        let _ = self.told.updates.send(Update { update });
    }

    /// About how many watch without having joined, as the edge said last.
    pub fn anonymous(&self, broadcast: BroadcastId) -> u32 {
        let crowds = self.told.crowds.lock();
        let crowd = crowds.iter().find(|crowd| crowd.broadcast == broadcast.as_str());
        crowd.map_or(0, |crowd| crowd.estimate)
    }

    /// Viewers whose leases have begun and not ended.
    pub fn viewers(&self) -> Vec<String> {
        let mut here = Vec::new();
        for (begun, lease) in self.told.leases.lock().iter() {
            here.retain(|viewer| *viewer != lease.viewer);
            if *begun {
                here.push(lease.viewer.clone());
            }
        }
        here
    }
}

#[tonic::async_trait]
impl Service for Told {
    type AttachStream = ReceiverStream<Result<Update, Status>>;

    async fn attach(
        &self,
        request: Request<Streaming<Report>>,
    ) -> Result<Response<Self::AttachStream>, Status> {
        let mut reports = request.into_inner();
        let (answers, receiver) = mpsc::channel(64);
        let public = signer().public();
        let key = Key { id: public.id, public_key: public.bytes.to_vec().into() };
        let keys = Keys { store: "test".to_owned(), keys: vec![key], ..Keys::default() };
        let nodes = Nodes { nodes: self.nodes.lock().clone() };
        for update in [update::Update::Keys(keys), update::Update::Nodes(nodes)] {
            answers.send(Ok(Update { update: Some(update) })).await.unwrap();
        }
        let named = self.gateways.lock().clone();
        for named in named {
            let update = Some(update::Update::Gateways(named));
            answers.send(Ok(Update { update })).await.unwrap();
        }
        let mut updates = self.updates.subscribe();
        let (leases, crowds) = (Arc::clone(&self.leases), Arc::clone(&self.crowds));
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    update = updates.recv() => {
                        let Ok(update) = update else { return };
                        if answers.send(Ok(update)).await.is_err() {
                            return;
                        }
                    }
                    report = reports.message() => match report {
                        Ok(Some(Report { report: Some(report::Report::Leases(delta)) })) => {
                            let mut leases = leases.lock();
                            leases.extend(delta.begun.into_iter().map(|lease| (true, lease)));
                            leases.extend(delta.ended.into_iter().map(|lease| (false, lease)));
                        }
                        Ok(Some(Report { report: Some(report::Report::Heartbeat(beat)) })) => {
                            if let Some(told) = beat.crowds {
                                *crowds.lock() = told.crowds;
                            }
                        }
                        Ok(Some(_)) => {}
                        _ => return,
                    },
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(receiver)))
    }
}

/// An origin as control tells of it.
pub fn origin_node(id: &str, address: SocketAddr) -> Node {
    Node {
        id: id.to_owned(),
        role: Role::Origin.into(),
        grpc: format!("http://{address}"),
        http: String::new(),
        ..Node::default()
    }
}
