use super::*;

#[test]
fn names_and_indices_are_checked() {
    assert_eq!(Identity::parse("05-a-b.c+d_E").unwrap(), Identity { index: "05".into(), name: "a-b.c+d_E".into() });
    for (index, name, told) in [
        ("5", "a", "not two digits"),
        ("005", "a", "not two digits"),
        ("0a", "a", "not two digits"),
        ("٠٠", "a", "not two digits"),
        ("", "a", "not two digits"),
        ("00", "", "empty"),
        ("00", "a/b", "only letters"),
        ("00", "a\n", "only letters"),
        ("00", "ä", "only letters"),
        ("00", &"a".repeat(254), "longer"),
    ] {
        assert!(Identity::new(index, name).unwrap_err().to_string().contains(told), "{index} {name}");
    }
    assert!(Identity::parse("05").is_err());
}

#[test]
fn events_are_those_that_there_are() {
    assert_eq!(events(0).unwrap(), 0x3fff);
    assert_eq!(events(0x3fff).unwrap(), 0x3fff);
    assert_eq!(events(mask(Event::RunPodSandbox)).unwrap(), 1);
    assert!(events(0x4000).unwrap_err().to_string().contains("0x4000"));
    assert!(events(-1).is_err());
}

#[test]
fn a_list_is_split_where_a_message_is_full() {
    let pod = |id: &str| PodSandbox { id: id.into(), ..PodSandbox::default() };
    let container = |length: usize| Container { id: "c".repeat(length), ..Container::default() };
    let limit = 300;
    let shape = |pods: &[PodSandbox], containers: &[Container]| -> Vec<(usize, usize, bool)> {
        let requests = split(pods, containers, limit).unwrap();
        assert!(requests.iter().all(|request| request.encoded_len() <= limit + 2));
        requests.iter().map(|request| (request.pods.len(), request.containers.len(), request.more)).collect()
    };
    assert_eq!(shape(&[], &[]), [(0, 0, false)]);
    assert_eq!(shape(&[pod("p")], &[container(100)]), [(1, 1, false)]);
    let many: Vec<_> = (0..5).map(|_| container(100)).collect();
    assert_eq!(shape(&[pod("p"), pod("q")], &many), [(2, 2, true), (0, 2, true), (0, 1, false)]);
    let told = split(&[], &[container(400)], limit).unwrap_err().to_string();
    assert!(told.contains("more than a message can have"), "{told}");
}
