//! One suite for every implementation of the backplane: what a gateway may rely on, whichever it is given. Each test is
//! here once and runs for each of them: `memory::a_confirm_on_another_node_ends_the_wait`,
//! `redis::a_confirm_on_another_node_ends_the_wait`, and `cluster::…` for a Redis Cluster. `model` compares them with each other,
//! and `time` does so while time passes.
#![allow(clippy::unwrap_used, clippy::panic, reason = "in a test that is how to say that it failed")]

#[path = "../support/mod.rs"]
mod support;

mod answering;
mod cancelling;
mod connections;
mod deadline;
mod fixture;
mod heartbeats;
mod history;
mod interest;
mod listing;
mod losing;
mod model;
mod nodes;
mod on_cluster;
mod on_memory;
mod on_redis;
mod opening;
mod presence;
mod publishing;
mod receipts;
mod time;
mod trail;
mod words;

/// Each test, once for each implementation. A test that is not listed is dead code, and the compiler says so.
macro_rules! conformance {
    ($($module:ident: $($test:ident)+;)+ @counted $($counted:ident: $($count:ident)+;)+) => {
        mod memory {
            $($(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $test() {
                    crate::$module::$test::<crate::on_memory::OnMemory>().await;
                }
            )+)+
            $($(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $count() {
                    crate::$counted::$count::<crate::on_memory::OnMemory>().await;
                }
            )+)+
        }

        mod redis {
            $($(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $test() {
                    crate::$module::$test::<crate::on_redis::OnRedis>().await;
                }
            )+)+
            $($(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $count() {
                    crate::$counted::$count::<crate::on_redis::OnRedis>().await;
                }
            )+)+
        }

        mod cluster {
            $($(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $test() {
                    crate::$module::$test::<crate::on_cluster::OnCluster>().await;
                }
            )+)+
        }
    };
}

conformance! {
    trail:
        a_decision_can_be_accounted_for;
    interest:
        nothing_is_heard_without_a_wish
        a_confirmed_wish_hears_the_very_next_message
        a_broadcast_reaches_every_node_and_the_publisher_like_the_others
        odd_names_are_heard_by_those_who_want_them_and_nobody_else
        what_is_no_message_is_refused_and_not_fatal
        a_position_in_the_payload_is_heard_as_one;
    publishing:
        concurrent_messages_arrive_everywhere_in_the_order_of_their_positions
        an_epoch_is_sixteen_hex_digits_and_addresses_have_their_own
        many_messages_keep_their_order_and_each_has_its_own_result
        a_repeat_with_the_same_key_publishes_nothing
        one_key_from_two_nodes_at_once_publishes_once
        the_result_of_a_key_ends_with_its_retention
        names_and_keys_that_look_alike_are_told_apart;
    history:
        a_history_is_complete_when_everything_after_a_position_is_there
        a_history_says_when_something_is_missing
        an_address_without_messages_is_at_the_beginning
        the_numbering_outlives_the_messages
        a_lost_numbering_is_a_new_epoch
        a_message_of_any_size_and_text_is_kept_as_its_bytes;
    losing:
        a_position_is_never_given_twice_whatever_the_store_has_lost
        what_is_left_of_a_lost_numbering_is_read_and_said_to_be_no_whole
        a_numbering_that_was_lost_nothing_of_begins_anew_all_the_same
        a_client_that_never_heard_a_message_is_not_told_that_it_missed_none
        a_keyed_message_is_published_once_across_a_loss
        losses_one_after_another_are_all_told;
    opening:
        a_question_is_published_as_it_was_recorded
        the_same_id_from_two_nodes_at_once_asks_once
        the_same_key_from_two_nodes_at_once_asks_once
        a_key_with_another_body_is_a_conflict_and_writes_nothing
        a_repeat_after_the_end_hears_the_decision
        a_repeat_past_the_deadline_times_it_out_first
        a_user_has_so_many_open_callbacks_and_no_more
        a_record_and_its_key_end_with_the_retention
        guests_hear_everything_in_open_mode
        guests_hear_nothing_where_there_are_none
        names_that_look_alike_are_told_apart
        users_tasks_and_keys_of_one_partition_do_not_mix
        a_question_as_large_as_a_message_may_be_is_kept_whole;
    answering:
        a_confirm_on_another_node_ends_the_wait
        an_answer_without_more_leaves_the_rest_null
        only_the_addressed_user_finds_a_callback
        a_guest_finds_every_callback
        the_winners_repeat_is_accepted_again
        a_repeat_without_a_name_comes_too_late
        an_answer_to_options_is_judged_before_it_decides
        a_withdrawn_callback_is_cancelled_by_the_producer
        of_two_confirms_at_once_one_decides
        of_a_confirm_and_a_withdrawal_at_once_one_decides
        of_a_confirm_and_a_cancellation_at_once_one_decides
        of_a_confirm_and_the_deadline_at_once_one_decides
        four_devices_on_two_nodes_get_one_decision
        a_cancelled_task_and_its_answers_leave_the_other_user_alone
        an_answer_that_must_be_judged_is_only_looked_at_by_those_whom_the_question_asks
        a_user_who_is_called_guest_or_producer_is_told_from_them;
    deadline:
        a_read_times_out_and_the_decision_is_the_one_chosen
        a_callback_is_open_until_its_deadline
        a_confirm_past_the_deadline_comes_too_late
        a_question_with_options_is_not_judged_past_the_deadline
        a_withdrawal_past_the_deadline_comes_too_late
        a_cancellation_past_the_deadline_times_out_what_was_due
        what_is_due_is_listed_nowhere
        sweeps_of_all_nodes_time_out_what_is_due_once
        what_ended_before_its_deadline_is_not_timed_out_again
        a_great_many_due_at_once_all_time_out;
    cancelling:
        a_cancellation_closes_the_tasks_callbacks_and_tells_everybody
        on_a_cancelled_task_nobody_is_asked
        a_lift_ends_a_cancellation
        a_cancellation_ends_with_its_retention_which_a_repeat_renews
        a_named_task_is_cancelled_for_every_user
        a_named_cancellation_holds_for_users_who_are_asked_later
        a_task_whose_name_is_too_long_for_a_topic_is_cancelled_all_the_same
        a_person_cancels_so_many_invented_tasks_and_no_more;
    heartbeats:
        each_beat_is_sent_by_exactly_one_of_the_nodes_that_sweep
        a_late_sweep_sends_one_message_and_no_burst
        a_heartbeat_ends_with_its_ttl
        a_heartbeat_that_is_started_again_is_replaced
        a_heartbeat_that_is_renewed_keeps_its_time
        a_stopped_heartbeat_is_silent_and_leaves_the_others_alone
        the_heartbeat_of_a_cancelled_task_is_silent_until_the_lift
        heartbeats_of_any_names_are_told_apart
        a_great_many_heartbeats_due_at_once_are_all_sent;
    receipts:
        a_receipt_says_how_far_its_message_has_come
        who_waits_on_another_node_hears_an_acknowledgement
        a_connection_acknowledges_once_and_all_in_order
        only_the_addressed_user_and_guests_find_a_receipt
        the_same_id_or_key_is_the_same_receipt
        a_receipt_and_its_key_end_with_the_retention
        a_receipt_keeps_so_many_acknowledgements_and_no_more
        receipts_of_any_names_are_told_apart;
    presence:
        a_user_joins_once_and_leaves_once_however_many_nodes_hold_a_place
        what_a_dead_node_held_ends_with_its_lease_and_is_told
        a_read_tells_what_has_expired_before_it_answers
        a_late_renewal_that_nobody_was_told_of_changes_nothing
        after_a_dead_node_its_user_may_be_held_elsewhere_without_a_word
        a_repeat_of_any_change_changes_nothing
        of_many_members_some_are_named_and_all_are_counted
        a_great_many_expired_places_are_all_given_up
        places_of_any_names_are_told_apart
        changes_from_many_nodes_at_once_are_told_in_an_order_that_makes_sense;
    connections:
        a_users_connections_are_listed_oldest_first
        one_more_takes_the_place_of_the_oldest_whose_node_is_told
        one_more_is_refused
        of_many_that_come_at_once_no_more_than_the_limit_stay
        what_a_dead_node_held_makes_room_when_its_lease_ends
        an_order_that_nobody_heard_is_told_again_at_the_renewal
        what_was_forgotten_comes_back_with_the_renewal_as_far_as_the_limit_admits
        a_user_is_disconnected_on_every_node_and_may_come_back
        one_connection_of_a_user_is_closed_and_no_other
        a_great_many_connections_are_all_closed
        connections_of_any_names_are_told_apart;
    listing:
        a_users_open_callbacks_are_complete_and_in_the_order_of_asking
        the_pages_of_all_open_callbacks_show_each_once
        what_stays_open_while_the_pages_turn_is_shown_once;
    nodes:
        announced_nodes_are_known_to_all
        an_announcement_ends_with_its_ttl
        nodes_with_odd_names_are_told_apart
        a_broken_link_is_told_and_heals
        a_stopped_node_hears_nothing_and_leaves_the_others_alone;
    // What is proved by counting who listens, which a cluster does not.
    @counted
    trail:
        a_question_that_a_node_heard_is_delivered_at_once;
    interest:
        after_the_last_wish_is_gone_nothing_is_heard
        many_wishes_at_once_are_all_confirmed
        wishes_that_come_and_go_quickly_end_as_the_last_one_says;
}
