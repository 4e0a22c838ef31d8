//! Unsealing, against a fake that plays the server's part of it: progress, nonces, followers, other people's shares.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use kdf_api::Secret;
use unsealer::vault::{Error, SealStatus, unseal_node};

use crate::fake::{Asked, Fake, Reply, json};
use crate::{run, shares, told};

const THRESHOLD: u8 = 3;

const WRONG: &str = r#"{"errors":["unable to retrieve stored keys: invalid key: failed to decrypt keys from storage: cipher: message authentication failed"]}"#;

/// How a sealed server behaves, as far as an unsealer sees it.
struct Play {
    given: Vec<String>,
    attempt: u32,
    sealed: bool,
    /// Takes shares of this many bytes only as wrong ones.
    refuses: bool,
    /// How long after the quorum a follower stays sealed; `None`: no follower.
    joins_after: Option<Duration>,
    quorum_at: Option<Instant>,
}

impl Play {
    const fn new() -> Self {
        Self {
            given: Vec::new(),
            attempt: 0,
            sealed: true,
            refuses: false,
            joins_after: None,
            quorum_at: None,
        }
    }

    fn status(&mut self) -> Reply {
        if let (Some(at), Some(after)) = (self.quorum_at, self.joins_after)
            && at.elapsed() >= after
        {
            self.sealed = false;
        }
        let nonce = if self.given.is_empty() {
            String::new()
        } else {
            format!("nonce-{}", self.attempt)
        };
        json(
            200,
            format!(
                r#"{{"type":"shamir","initialized":true,"sealed":{},"t":{THRESHOLD},"n":5,"progress":{},"nonce":"{nonce}"}}"#,
                self.sealed,
                self.given.len()
            ),
        )
    }

    fn give(&mut self, share: &str) -> Reply {
        if !self.sealed {
            return self.status();
        }
        if self.given.is_empty() {
            self.attempt += 1;
        }
        if !self.given.iter().any(|given| given == share) {
            self.given.push(share.to_owned());
        }
        if self.given.len() < usize::from(THRESHOLD) {
            return self.status();
        }
        let fits = !self.refuses && !self.given.iter().any(|share| share.contains("stranger"));
        self.given.clear();
        if !fits {
            return json(400, WRONG);
        }
        self.quorum_at = Some(Instant::now());
        self.sealed = self.joins_after.is_some();
        self.status()
    }

    fn reset(&mut self) -> Reply {
        self.given.clear();
        if self.sealed {
            self.status()
        } else {
            json(400, r#"{"errors":["vault is unsealed"]}"#)
        }
    }

    fn answer(&mut self, asked: &Asked) -> Reply {
        if asked.is("GET", "sys/seal-status") {
            self.status()
        } else if asked.is("POST", "sys/unseal") && asked.body == r#"{"reset":true}"# {
            self.reset()
        } else if asked.is("POST", "sys/unseal") {
            self.give(&asked.body)
        } else {
            panic!("asked for {}", asked.path);
        }
    }
}

/// A fake in which `meddle` sees every request, with its number, before the server does.
fn fake(
    play: Play,
    meddle: impl Fn(usize, &Asked, &mut Play) -> Option<Reply> + Send + Sync + 'static,
) -> Fake {
    let play = Arc::new(Mutex::new(play));
    Fake::new(move |number, asked| {
        let mut play = play.lock().unwrap();
        meddle(number, asked, &mut play).unwrap_or_else(|| play.answer(asked))
    })
}

fn quiet(play: Play) -> Fake {
    fake(play, |_, _, _| None)
}

fn unseal_with(fake: &Fake, shares: &[Secret]) -> Result<SealStatus, Error> {
    run(unseal_node(
        &fake.client(),
        shares,
        THRESHOLD,
        Duration::from_secs(2),
    ))
}

fn unseal(fake: &Fake) -> Result<SealStatus, Error> {
    unseal_with(fake, &shares(5))
}

/// How many shares and resets were sent.
fn sent(fake: &Fake) -> (usize, usize) {
    let asked = fake.asked();
    let count = |body: &str| asked.iter().filter(|asked| asked.body.starts_with(body)).count();
    (count("{\"key\":"), count("{\"reset\":"))
}

#[test]
fn exactly_a_quorum_on_one_connection_which_is_closed() {
    let fake = quiet(Play::new());
    assert!(!unseal(&fake).unwrap().sealed);
    assert_eq!((sent(&fake), fake.connections()), ((3, 0), 1));
    assert!(fake.is_left_alone());
    let key = shares(1)[0].to_base64();
    assert_eq!(fake.asked()[1].body, format!("{{\"key\":\"{}\"}}", *key));
}

#[test]
fn an_open_server_gets_no_share() {
    let fake = quiet(Play {
        sealed: false,
        ..Play::new()
    });
    assert!(!unseal(&fake).unwrap().sealed);
    assert_eq!(sent(&fake), (0, 0));
}

#[test]
fn a_server_in_another_state_gets_no_share() {
    for (change, state) in [
        (r#""initialized":false,"t":0,"n":0"#, "not initialised"),
        (r#""type":"awskms""#, "seal type awskms"),
        (r#""recovery_seal":true"#, "do not unseal"),
        (r#""migration":true"#, "migration"),
    ] {
        let mut fields: Vec<_> = [
            r#""type":"shamir""#,
            r#""initialized":true"#,
            r#""t":3"#,
            r#""n":5"#,
        ]
        .into_iter()
        .filter(|field| !change.contains(field.split(':').next().unwrap()))
        .collect();
        fields.extend([change, r#""sealed":true,"progress":0"#]);
        let fake = Fake::always(200, format!("{{{}}}", fields.join(",")));
        let error = unseal(&fake).unwrap_err();
        assert!(matches!(error, Error::NotSubmitted { .. }), "{error}");
        assert!(error.to_string().contains(state), "{error}");
        assert_eq!(sent(&fake), (0, 0));
    }
}

#[test]
fn shares_for_another_threshold_or_too_few_stay_here() {
    let fake = quiet(Play::new());
    let error = run(unseal_node(&fake.client(), &shares(5), 2, Duration::ZERO)).unwrap_err();
    assert!(
        matches!(
            error,
            Error::OtherThreshold {
                server: 3,
                ours: 2,
                ..
            }
        ),
        "{error}"
    );
    let error = unseal_with(&fake, &shares(2)).unwrap_err();
    assert!(
        matches!(
            error,
            Error::TooFewShares {
                needed: 3,
                have: 2,
                ..
            }
        ),
        "{error}"
    );
    let twice = [shares(2), shares(2)].concat_shares();
    let error = unseal_with(&fake, &twice).unwrap_err();
    assert!(
        matches!(
            error,
            Error::TooFewShares {
                needed: 3,
                have: 2,
                ..
            }
        ),
        "{error}"
    );
    assert_eq!(sent(&fake), (0, 0));
}

trait ConcatShares {
    fn concat_shares(self) -> Vec<Secret>;
}

impl ConcatShares for [Vec<Secret>; 2] {
    fn concat_shares(self) -> Vec<Secret> {
        self.into_iter().flatten().collect()
    }
}

#[test]
fn a_follower_opens_later_and_is_waited_for() {
    let fake = quiet(Play {
        joins_after: Some(Duration::from_millis(600)),
        ..Play::new()
    });
    assert!(!unseal(&fake).unwrap().sealed);
    assert_eq!(sent(&fake), (3, 0));
}

#[test]
fn a_follower_that_answers_the_last_share_late_is_waited_for() {
    let fake = fake(Play::new(), |number, asked, play| {
        if number != 3 {
            return None;
        }
        // As if the answer came only after the join.
        match play.answer(asked) {
            Reply::Json(status, body) => Some(Reply::Late(Duration::from_millis(2500), status, body)),
            _ => None,
        }
    });
    assert!(!unseal(&fake).unwrap().sealed);
    assert_eq!(sent(&fake), (3, 0));
}

#[test]
fn a_follower_that_never_opens_is_told_after_a_while() {
    let fake = quiet(Play {
        joins_after: Some(Duration::from_hours(1)),
        ..Play::new()
    });
    let error = run(unseal_node(
        &fake.client(),
        &shares(5),
        THRESHOLD,
        Duration::from_millis(500),
    ))
    .unwrap_err();
    assert!(matches!(error, Error::StillSealed { .. }), "{error}");
    assert_eq!(sent(&fake), (3, 0));
}

#[test]
fn a_settling_server_may_fall_silent_and_garbage_is_not_success() {
    let nonsense = |number: usize| match number {
        4 => Some(Reply::Raw(Vec::new())),
        5 => Some(json(200, r#"{"sealed":false}"#)),
        6 => Some(json(
            503,
            r#"{"initialized":true,"sealed":false,"type":"shamir","t":3,"n":5,"progress":0}"#,
        )),
        _ => None,
    };
    let slow = Play {
        joins_after: Some(Duration::from_millis(700)),
        ..Play::new()
    };
    let fake = fake(slow, move |number, _, _| nonsense(number));
    let started = Instant::now();
    assert!(!unseal(&fake).unwrap().sealed);
    assert!(started.elapsed() >= Duration::from_millis(600));
}

/// Invariant 8's spirit: a refused quorum is not tried again.
#[test]
fn a_refused_quorum_is_told_and_not_repeated() {
    let fake = quiet(Play {
        refuses: true,
        ..Play::new()
    });
    let error = unseal(&fake).unwrap_err();
    assert!(matches!(error, Error::WrongShares { .. }), "{error}");
    assert!(
        told(&error).contains("do not belong to http://127.0.0.1"),
        "{error}"
    );
    assert_eq!(sent(&fake), (3, 0));
}

#[test]
fn a_share_that_is_none_is_told() {
    for text in [
        "'key' must be a valid hex or base64 string",
        "key is shorter than minimum 16 bytes",
    ] {
        let fake = fake(Play::new(), move |number, _, _| {
            (number == 1).then(|| json(400, format!(r#"{{"errors":["{text}"]}}"#)))
        });
        let error = unseal(&fake).unwrap_err();
        assert!(matches!(error, Error::NotAShare { .. }), "{error}");
        assert_eq!(sent(&fake), (1, 0));
    }
}

#[test]
fn an_attempt_of_somebody_else_is_reset_once() {
    let mut play = Play::new();
    play.give("stranger");
    let fake = quiet(play);
    assert!(!unseal(&fake).unwrap().sealed);
    assert_eq!(sent(&fake), (3, 1));
}

#[test]
fn progress_that_jumps_is_reset_once_and_the_whole_quorum_sent() {
    let fake = fake(Play::new(), |number, _, play| {
        // Before our second share arrives.
        if number == 2 {
            play.given.push("stranger".to_owned());
        }
        None
    });
    assert!(!unseal(&fake).unwrap().sealed);
    // Number 2 completes the stranger's quorum and fails; nothing is left to reset.
    assert_eq!(sent(&fake), (2 + 3, 0));
}

#[test]
fn a_nonce_that_changes_midway_is_noticed() {
    let fake = fake(Play::new(), |number, _, play| {
        // Somebody resets and gives a share of a generation that does not fit.
        if number == 2 {
            play.given.clear();
            play.attempt += 1;
            play.given.push("stranger".to_owned());
        }
        None
    });
    assert!(!unseal(&fake).unwrap().sealed);
    assert_eq!(sent(&fake), (2 + 3, 1));
}

#[test]
fn the_same_nonce_with_less_progress_is_noticed() {
    let fake = fake(Play::new(), |number, _, play| {
        if number == 2 {
            play.given.clear();
        }
        None
    });
    assert!(!unseal(&fake).unwrap().sealed);
}

#[test]
fn a_disturber_without_end_is_given_up() {
    let fake = fake(Play::new(), |_, asked, play| {
        if asked.body.starts_with("{\"key\":") && !play.given.iter().any(|share| share == "stranger") {
            play.given.push("stranger".to_owned());
        }
        None
    });
    let error = unseal(&fake).unwrap_err();
    assert!(matches!(error, Error::Disturbed { .. }), "{error}");
    let (given, resets) = sent(&fake);
    assert!(given <= 6 && resets == 1, "{given} shares, {resets} resets");
}

#[test]
fn a_second_reset_never_comes() {
    let mut play = Play::new();
    play.give("stranger");
    let fake = fake(play, |_, asked, play| {
        if asked.body.starts_with("{\"key\":") && !play.given.iter().any(|share| share == "stranger") {
            play.given.push("stranger".to_owned());
        }
        None
    });
    let error = unseal(&fake).unwrap_err();
    assert!(matches!(error, Error::Disturbed { .. }), "{error}");
    assert_eq!(sent(&fake), (1, 1));
}

#[test]
fn shares_that_add_up_with_somebody_elses_are_success() {
    let fake = fake(Play::new(), |number, _, play| {
        if number == 2 {
            play.given.push("a good one".to_owned());
        }
        None
    });
    assert!(!unseal(&fake).unwrap().sealed);
    assert_eq!(sent(&fake), (2, 0));
}

#[test]
fn a_reset_that_comes_too_late_is_no_error() {
    let mut play = Play::new();
    play.give("a good one");
    let fake = fake(play, |_, asked, play| {
        if asked.body.contains("reset") {
            play.sealed = false;
        }
        None
    });
    assert!(!unseal(&fake).unwrap().sealed);
    assert_eq!(sent(&fake), (0, 1));
}

#[test]
fn a_server_that_closes_after_each_answer_is_unsealed_too() {
    let fake = fake(Play::new(), |_, asked, play| match play.answer(asked) {
        Reply::Json(status, body) => Some(Reply::Raw(
            format!(
                "HTTP/1.1 {status} X\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
                body.len()
            )
            .into(),
        )),
        _ => None,
    });
    assert!(!unseal(&fake).unwrap().sealed);
    assert_eq!(fake.connections(), 4);
}

#[test]
fn a_redirect_midway_ends_it_with_no_further_share() {
    let second = Fake::always(200, "{}");
    let target = second.address;
    let fake = fake(Play::new(), move |number, _, _| {
        (number == 2).then(|| {
            Reply::Raw(
                format!(
                    "HTTP/1.1 307 X\r\nLocation: http://{target}/v1/sys/unseal\r\nContent-Length: 0\r\n\r\n"
                )
                .into(),
            )
        })
    });
    let error = unseal(&fake).unwrap_err();
    assert!(matches!(error, Error::Redirect { .. }), "{error}");
    assert_eq!((sent(&fake).0, second.connections()), (2, 0));
}

#[test]
fn an_answer_without_sealed_is_not_success() {
    let fake = fake(Play::new(), |number, _, _| {
        (number == 3).then(|| json(200, r#"{"progress":0,"t":3}"#))
    });
    let error = unseal(&fake).unwrap_err();
    assert!(matches!(error, Error::Malformed { .. }), "{error}");
}

#[test]
fn one_share_and_a_reset_by_hand() {
    let fake = quiet(Play::new());
    let status = run(fake.client().unseal(&shares(1)[0])).unwrap();
    assert_eq!((status.progress, status.nonce.as_str()), (1, "nonce-1"));
    let status = run(fake.client().reset_unseal()).unwrap();
    assert_eq!((status.progress, status.nonce.as_str()), (0, ""));
    assert_eq!(fake.connections(), 2);
}

#[test]
fn many_nodes_are_unsealed_side_by_side() {
    let fakes: Vec<_> = (0..20).map(|_| quiet(Play::new())).collect();
    run(async {
        let tasks: Vec<_> = fakes
            .iter()
            .map(|fake| {
                let client = fake.client();
                tokio::spawn(async move {
                    unseal_node(&client, &shares(5), THRESHOLD, Duration::from_secs(2)).await
                })
            })
            .collect();
        for task in tasks {
            assert!(!task.await.unwrap().unwrap().sealed);
        }
    });
}
