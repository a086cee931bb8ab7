//! One file for each promise, named after it.

mod a_browser_plays_it;
mod a_follower_misses_nothing;
mod a_kick_is_felt_within_a_second;
mod a_private_broadcast_is_a_secret;
mod a_publisher_comes_back;
mod a_reload_disconnects_nobody;
mod a_slow_viewer_costs_only_itself;
mod an_edge_outlives_its_origin;
mod broadcasts_outlive_control;
mod broadcasts_outlive_the_store;
mod chunks_are_the_same_on_every_edge;
mod edge_restart_loses_nobody;
mod first_poll_fetches_once;
mod hostile_input_costs_one_connection;
mod low_latency_is_low;
mod no_frame_before_the_token;
mod notices_are_hints;
mod one_control_of_two_is_enough;
mod origin_restart_keeps_sequence;
mod players_move_when_an_edge_drains;
mod seat_101_gets_hls;
mod sixty_seconds_play_everywhere;
mod the_console_shows_what_happens;
mod the_demo_is_watchable;
mod the_end_is_told;
mod two_publishers_one_writer;
