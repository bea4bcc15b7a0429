//! Changes of the view.

use super::*;

/// Asks until an answer is as expected, and tells how long that took.
fn until(name: &str, expected: &(u8, Vec<String>)) -> Duration {
    let since = Instant::now();
    let socket = client(POD);
    loop {
        socket.send(&ask(name, A)).unwrap();
        if addresses(&receive(&socket)) == *expected {
            return since.elapsed();
        }
        assert!(since.elapsed() < PATIENCE, "{name} does not become {expected:?}");
    }
}

#[test]
fn an_answer_after_a_change_is_new() {
    in_a_network(|| {
        let server = Running::start(200, &[]);
        let nobody = (3, Vec::new());
        let mut took = Vec::new();
        let (path, mut member) = server.member(200);
        for _ in 0..5 {
            put(&path, &member);
            took.push(until("db-200.ns.svc.cluster.local", &found(&["10.86.0.203"])));
            member.ready = false;
            put(&path, &member);
            took.push(until("db-200.ns.svc.cluster.local", &nobody));
            member.ready = true;
            put(&path, &member);
            took.push(until("db-200.db.ns.svc.cluster.local", &found(&["10.86.0.203"])));
            std::fs::remove_file(&path).unwrap();
            took.push(until("db-200.ns.svc.cluster.local", &nobody));
        }
        took.sort();
        // A build without optimization reads 200 files in as long; another test may run at the same time.
        assert!(took[took.len() / 2] < Duration::from_millis(150), "{took:?}");
    });
}

#[test]
fn a_directory_that_was_not_there() {
    in_a_network(|| {
        let server = Running::start(1, &[]);
        let services = server.files.path().join(SERVICES);
        std::fs::remove_dir_all(&services).unwrap();
        until("out.ns.svc.cluster.local", &(3, Vec::new()));
        std::fs::create_dir(&services).unwrap();
        let web = serde_json::json!({ "metadata": { "name": "web", "namespace": "ns" },
            "spec": { "clusterIP": "10.87.0.9", "ports": [{ "port": 80 }] } });
        put(&services.join("ns_web.json"), &web);
        until("web.ns.svc.cluster.local", &found(&["10.87.0.9"]));
    });
}

#[test]
fn a_file_that_makes_no_sense_changes_nothing() {
    in_a_network(|| {
        let server = Running::start(2, &[]);
        let wrong = server.files.path().join("members/wrong.json");
        std::fs::write(&wrong, "{").unwrap();
        let (path, member) = server.member(2);
        put(&path, &member);
        std::thread::sleep(Duration::from_millis(200));
        assert_eq!(addresses(&over_udp(POD, &ask("db-1.ns.svc.cluster.local", A))), found(&["10.86.0.4"]), "as before");
        assert_eq!(message::code(&over_udp(POD, &ask("db-2.ns.svc.cluster.local", A))), 3, "as before");
        std::fs::remove_file(&wrong).unwrap();
        until("db-2.ns.svc.cluster.local", &found(&["10.86.0.5"]));
    });
}

#[test]
fn it_ends_when_it_is_not_needed() {
    in_a_network(|| {
        let mut server = Running::start(2, &[]);
        for number in 0..2 {
            std::fs::remove_file(server.member(number).0).unwrap();
        }
        assert_eq!(server.ended(), Ended::NoPods);
        let mut server = Running::start(2, &[]);
        std::fs::remove_file(server.files.path().join("network.json")).unwrap();
        assert_eq!(server.ended(), Ended::NoNetwork);
    });
}
