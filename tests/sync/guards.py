"""Each guard of the file protocol, and the tests that fail when it is taken out.

    python -m tests.sync.guards            all of them
    python -m tests.sync.guards -k gap     those whose name says so; further options are pytest's

A guard is taken out by changing one expression of one function while a test runs. The test must
fail then: one that passes says that nobody would notice if the guard were lost. Some guards cover
one another; of those either may go and the test still passes, but not both (PAIRS).
"""

import ast
import inspect
import sys
import textwrap
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib import import_module
from types import CodeType
from typing import Any

import pytest


@dataclass(frozen=True)
class Guard:
    """`was` stands once in the function at `where`, module:name, and becomes `becomes`."""

    name: str
    where: str
    was: str
    becomes: str
    killed_by: tuple[str, ...]


@dataclass(frozen=True)
class Pair:
    """Two guards that cover one another in this test."""

    one: str
    other: str
    killed_by: str


def _guard(name: str, where: str, was: str, becomes: str, *killed_by: str) -> Guard:
    return Guard(name, where, was, becomes, killed_by)


APPEND, DURABLE, UPLOAD = "sync/test_append.py", "sync/test_durable.py", "sync/test_upload.py"
CHUNKS, TOGETHER, GUARDED = "sync/test_chunks.py", "sync/test_together.py", "sync/test_guarded.py"
WITH_AGENT = "sync/test_with_agent.py"
STEADY, DISPLACING = "sync/test_steady.py", "sync/test_displacing.py"
GROWING, WHOLE = "agent/test_growing.py", "agent/test_chunks.py"

GUARDS = [
    # --- the delta ---
    _guard(
        "a gap is refused", "sync.append:_add", "offset > row.size", "False",
        f"{APPEND}::test_a_gap_is_refused_with_the_place_to_go_on_from",
    ),
    _guard(
        "the overlap is compared", "sync.append:_add", "overlap and overlap !=", "False and 0 !=",
        f"{APPEND}::test_other_bytes_diverge",
    ),
    _guard(
        "the overlap is not stored again", "sync.append:_add",
        "delta.data[len(overlap) :]", "delta.data",
        f"{APPEND}::test_a_repeated_chunk_is_stored_once",
        f"{APPEND}::test_an_overlap_adds_only_what_is_new",
    ),
    _guard(
        "a chunk acknowledges only itself", "sync.append:_add",
        "acked = offset + len(delta.data)", "acked = max(row.size, offset + len(delta.data))",
        f"{APPEND}::test_a_late_shorter_chunk_acknowledges_only_itself",
    ),
    _guard(
        "an older generation is stale", "sync.append:begin", "version < row.version", "False",
        f"{APPEND}::test_an_older_generation_is_stale",
    ),
    _guard(
        "a version begins at zero", "sync.append:check_begins_at_zero", "if offset", "if False",
        f"{DURABLE}::test_a_new_generation_that_does_not_begin_at_zero_lays_nothing_aside",
        f"{CHUNKS}::test_an_upload_begins_at_zero",
    ),
    _guard(
        "what was there is laid aside", "sync.append:begin",
        "storage.keep_generation(target.place, row.generation)", "0",
        f"{APPEND}::test_a_new_generation_begins_at_zero_and_lays_the_old_one_aside",
    ),
    _guard(
        "a row moves from what was seen", "sync.append:_moved", "cursor.rowcount == 1", "True",
        f"{DURABLE}::test_a_row_that_was_moved_by_somebody_else_is_not_moved_again",
    ),
    _guard(
        "bytes that the disk lost are asked for", "sync.append:repair",
        "actual < row.size", "False",
        f"{APPEND}::test_a_disk_that_lost_bytes_asks_for_them_again",
    ),
    _guard(
        "an attempt that was given up meanwhile is fenced", "sync.append:append",
        "check_still(target)", "pass",
        f"{APPEND}::test_a_chunk_that_waits_while_its_attempt_is_given_up_changes_no_result",
    ),
    _guard(
        "a delta is compared with its checksum", "sync.intake:_check_sum", "if sha256", "if False",
        f"{GUARDED}::test_a_damaged_chunk_is_not_kept",
    ),
    _guard(
        "the whole is compared at the end", "sync.append:_confirm",
        "storage.sha256_of(target.place, row.size) != sha256", "False",
        f"{APPEND}::test_a_file_is_confirmed_by_the_hash_of_the_whole",
    ),
    _guard(
        "more bytes unmake the confirmation", "sync.append:move",
        '"sha256": "", "complete": False,', "",
        f"{APPEND}::test_more_bytes_unmake_the_confirmation",
    ),
    _guard(
        "a key is remembered", "sync.append:append", "delta.key and row", "False and row",
        f"{APPEND}::test_an_idempotency_key_makes_it_safe_to_repeat",
    ),
    # --- many at once ---
    _guard(
        "one that goes on begins at the end", "sync.steady:_goes_on", "row.size != delta.offset",
        "False", f"{STEADY}::test_a_gap_is_left",
    ),
    _guard(
        "and is of the same version", "sync.steady:_goes_on", "row.version != version", "False",
        f"{STEADY}::test_an_older_version_is_left",
    ),
    _guard(
        "of a file that is as long as was acknowledged", "sync.steady:_goes_on",
        "storage.size_of(target.place) >= row.size", "True",
        f"{STEADY}::test_a_file_of_which_the_disk_lost_bytes_is_left",
    ),
    _guard(
        "it confirms nothing", "sync.steady:_says_all", "and not delta.file_sha256", "",
        f"{STEADY}::test_a_confirmation_is_left",
    ),
    _guard(
        "it has no key to remember", "sync.steady:_says_all", "and not delta.key", "",
        f"{STEADY}::test_one_with_a_key_is_left",
    ),
    _guard(
        "its attempt was not given up meanwhile", "sync.steady:_step", "check_still(target)",
        "pass", f"{STEADY}::test_an_attempt_that_is_given_up_at_that_moment_is_left",
    ),
    _guard(
        "there is room for it", "sync.steady:_step", "room.admit(target, len(delta.data))", "pass",
        f"{STEADY}::test_what_has_no_room_is_left",
        f"{STEADY}::test_what_is_beyond_the_quota_is_left",
    ),
    _guard(
        "it is no other source of curves", "sync.steady:_step",
        "or intake.feeds_other_curves(target)", "",
        f"{STEADY}::test_another_source_of_curves_is_left",
    ),
    _guard(
        "its file is locked until its row is moved", "sync.steady:_step",
        "locks.enter_context(storage.locked(target.place, seconds=0))", "pass",
        f"{STEADY}::test_the_file_is_nobody_elses_until_its_row_is_moved",
        f"{STEADY}::test_a_file_that_is_written_is_left",
    ),
    _guard(
        "no row moves without its bytes", "sync.steady:go_on", "if step.is_written", "",
        f"{STEADY}::test_what_the_disk_refuses_is_left",
    ),
    _guard(
        "nobody is told of a row that did not move", "sync.steady:_move", "more is not None",
        "True", f"{STEADY}::test_a_row_that_somebody_moved_is_left",
    ),
    # --- whose bytes ---
    _guard(
        "results are the newest attempt's", "sync.ownership:owns_results",
        "return number == attempt.number and", "return",
        f"{GUARDED}::test_what_is_sent_for_an_earlier_attempt_is_evidence",
    ),
    _guard(
        "a lost attempt has no results", "sync.ownership:owns_results",
        "outcome != Outcome.LOST", "True",
        f"{APPEND}::test_a_lost_attempt_writes_no_results_even_when_it_is_the_newest",
    ),
    _guard(
        "a deleted run takes nothing", "sync.ownership:owns_results", "if deleted_at",
        "if False",
        f"{APPEND}::test_nor_within_the_second_for_which_an_attempt_is_remembered",
    ),
    # --- a file in the place of a folder, and the reverse ---
    _guard(
        "nothing is displaced by what names no version", "sync.displacing:check",
        "generation is None", "False",
        f"{DISPLACING}::test_curl_that_names_no_version_destroys_nothing",
    ),
    _guard(
        "nor by what is not newer", "sync.displacing:check",
        "(target.number, generation) <= newest.version", "False",
        f"{DISPLACING}::test_a_version_that_is_not_above_what_is_in_the_way_is_stale",
        f"{DISPLACING}::test_a_late_chunk_of_what_lost_its_place_changes_nothing",
    ),
    _guard(
        "what is in the way is asked for as a row begins", "sync.displacing:new_row",
        "in_the_way(target)", "False",
        f"{DISPLACING}::test_two_that_cannot_be_beside_each_other_begin_at_one_moment",
    ),
    _guard(
        "the trash has it before its row says so", "sync.displacing:_displace",
        "storage.lay_beside(place, one.pk, versions=one.may_have_earlier)", "pass",
        f"{DISPLACING}::test_a_crash_at_any_point_loses_neither",
    ),
    _guard(
        "and as it is by then", "sync.storage:_lay_link",
        "os.stat(name, dir_fd=there, follow_symlinks=False).st_ino == inode", "True",
        f"{DISPLACING}::test_what_is_replaced_meanwhile_is_kept_as_it_then_is",
    ),
    _guard(
        "an attempt that was given up meanwhile displaces nothing", "sync.displacing:_displace",
        "check_still(target)", "pass",
        f"{DISPLACING}::test_an_attempt_that_is_given_up_at_that_moment_displaces_nothing",
    ),
    _guard(
        "what has grown meanwhile is not displaced", "sync.displacing:_mark",
        "_as_seen(one) not in there", "False",
        f"{DISPLACING}::test_what_is_written_meanwhile_is_not_displaced_unseen",
    ),
    _guard(
        "what is displaced takes no quota", "sync.displacing:_mark",
        "target.job.project.note_used(-size)", "pass",
        f"{DISPLACING}::test_a_folder_takes_the_place_of_a_file",
    ),
    _guard(
        "what was derived of it goes", "sync.displacing:_clear", "_forget_curves(target,",
        "str(", f"{DISPLACING}::test_what_was_derived_of_it_goes",
    ),
    _guard(
        "no attempt goes on from what is gone", "sync.displacing:_displace",
        "resume.note_files(target.job)", "pass",
        f"{DISPLACING}::test_what_was_derived_of_it_goes",
        f"{DISPLACING}::test_a_crash_leaves_nothing_that_was_derived_of_it",
    ),
    _guard(
        "what took the place meanwhile is not cleared away", "sync.displacing:_take_away",
        "rows.present().exists()", "False",
        f"{DISPLACING}::test_a_file_that_took_the_place_meanwhile_is_not_cleared_away",
    ),
    _guard(
        "what is deleted gets to the trash first", "sync.displacing:_take_away",
        "not storage.is_in_trash(place, row.pk)", "False",
        f"{DISPLACING}::test_a_deleted_file_is_in_nobodys_way_and_stays_unwanted",
    ),
    _guard(
        "a folder is not the file that was deleted there", "sync.storage:lay_away",
        "_is_file(place.name, at)", "_exists(place.name, at)",
        f"{DISPLACING}::test_nor_where_that_files_bytes_were_lost",
    ),
    _guard(
        "nor one of an empty row's name", "sync.storage:_lay_link", "not _is_file(name, at)",
        "False",
        f"{DISPLACING}::test_a_folder_that_nobody_sent_is_not_moved",
    ),
    _guard(
        "of what is replaced the newest are kept", "sync.displacing:_mark",
        "_let_older_go(target, trash)", "pass",
        f"{DISPLACING}::test_of_what_a_run_replaces_again_and_again_the_newest_are_kept",
    ),
    _guard(
        "what nobody sent stays", "sync.displacing:_take_away", "if marked", "if True",
        f"{DISPLACING}::test_a_link_or_a_file_that_nobody_sent_stays_and_is_refused",
    ),
    _guard(
        "a file on its way into the folder is waited for", "sync.storage:remove_empty",
        "if any(", "if False and any(",
        f"{DISPLACING}::test_a_file_on_its_way_into_the_folder_is_waited_for",
    ),
    _guard(
        "what was displaced is not restored over the newer", "sync.models:Trash.restore",
        "self._check_places_free()", "pass",
        f"{DISPLACING}::test_it_is_not_restored_into_the_place_of_the_newer",
        f"{DISPLACING}::test_nor_is_what_a_person_deleted",
    ),
    _guard(
        "its name is another file's", "sync.trash:_lay_away", "row.displaced or", "",
        f"{DISPLACING}::test_removing_it_for_good_leaves_the_newer_of_its_name",
    ),
    _guard(
        "a file that is there once more is wanted", "sync.status:of", "shelf=0, displaced=0",
        "shelf=0", f"{DISPLACING}::test_the_status_tells_of_what_is_there",
    ),
    _guard(
        "a folder in a file's place is newer", "agent.files.tracked:Tracked._begin",
        "max(run.on_server[self.name], before)", "run.on_server[self.name]",
        "agent/test_filesync.py::"
        "test_what_takes_the_place_of_a_folder_or_a_file_is_newer_than_that",
    ),
    # --- the disk ---
    _guard(
        "what nobody acknowledged is cut off", "sync.storage:write_at", "file.truncate(offset)",
        "pass", f"{APPEND}::test_bytes_that_were_never_acknowledged_are_cut_off",
    ),
    _guard(
        "bytes are on the disk before the row", "sync.storage:write_at", "os.fsync(descriptor)",
        "pass", f"{DURABLE}::test_a_delta_is_on_the_disk_before_its_row_says_so",
        f"{GUARDED}::test_a_power_cut_takes_nothing_that_was_acknowledged",
    ),
    _guard(
        "and that of one that a crash left", "sync.storage:write_at", "if before != offset",
        "if False",
        f"{GUARDED}::test_nor_what_followed_a_crash_in_the_middle_of_a_rename",
    ),
    _guard(
        "and the folder's", "sync.storage:folder_of", "os.fsync(at)", "pass",
        f"{GUARDED}::test_a_power_cut_takes_nothing_that_was_acknowledged",
    ),
    _guard(
        "a short write goes on", "sync.storage:write_at", "while view", "if view",
        f"{GUARDED}::test_a_short_write_goes_on",
    ),
    _guard(
        "a file has one writer", "sync.storage:_wait_for",
        "return fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)", "return None",
        f"{APPEND}::test_one_writer_at_a_time",
        f"{GUARDED}::test_a_line_by_hand_in_the_middle_of_a_chunk_waits",
    ),
    _guard(
        "no link is followed", "sync.storage:write_at", "| _NO_FOLLOW", "",
        f"{APPEND}::test_nor_one_that_was_laid_where_a_file_was",
    ),
    _guard(
        "nor one among the folders", "sync.storage:folder_of", "| _NO_FOLLOW", "",
        f"{APPEND}::test_a_symlink_is_not_followed",
    ),
    _guard(
        "a name is this run's", "agent.wire:is_file_of",
        'path.startswith(f"{run_name}.") and', "",
        f"{GUARDED}::test_another_runs_files_are_not_reached",
    ),
    _guard(
        "a folder is this run's", "agent.wire:is_file_of", "first == run_name and", "",
        f"{GUARDED}::test_nor_what_lies_in_its_folder",
    ),
    _guard(
        "a name has no odd part", "agent.wire:is_artifact_part", 'text not in (".", "..")', "True",
        f"{GUARDED}::test_no_name_leads_upwards",
    ),
    _guard(
        "what is kept for the database is refused", "sync.room:make_sure_of",
        "length and length >", "False and length >",
        "sync/test_room.py::test_no_file_takes_the_last_of_the_disk",
    ),
    # --- the whole file ---
    _guard(
        "a body is what was said", "sync.upload:store",
        "said.sha256 and said.sha256 != part.sha256", "False",
        f"{UPLOAD}::test_a_body_that_is_not_what_was_said_changes_nothing",
    ),
    _guard(
        "a body is not cut short", "sync.upload:store",
        "said.length is not None and said.length != part.size", "False",
        f"{UPLOAD}::test_a_body_that_is_not_what_was_said_changes_nothing",
    ),
    _guard(
        "an older version does not replace a newer", "sync.upload:check_not_stale",
        "version < newest", "False",
        f"{UPLOAD}::test_a_newer_version_replaces_and_a_late_older_one_does_not",
        f"{CHUNKS}::test_a_newer_version_takes_the_place_of_one_that_is_on_its_way",
    ),
    _guard(
        "the same again writes nothing", "sync.upload:take_place",
        "version == row.version and _is_stored(target, row, part)", "False",
        f"{UPLOAD}::test_the_same_again_writes_nothing",
    ),
    _guard(
        "the attempt is asked for again when the file is in", "sync.upload:store",
        "check_still(target)", "pass",
        f"{UPLOAD}::test_an_attempt_that_is_given_up_while_its_file_comes_in_changes_no_result",
    ),
    _guard(
        "a whole file is on the disk before its rename", "sync.storage:Incoming.take",
        "os.fsync(self.file.fileno())", "pass",
        f"{DURABLE}::test_a_whole_file_is_on_the_disk_before_it_takes_its_place_"
        "and_its_place_before_the_row",
        f"{GUARDED}::test_a_power_cut_takes_nothing_that_was_acknowledged",
    ),
    _guard(
        "and its rename before the row", "sync.storage:Incoming.put", "os.fsync(there)", "pass",
        f"{DURABLE}::test_a_delta_is_on_the_disk_before_its_row_says_so",
        f"{DURABLE}::test_a_whole_file_is_on_the_disk_before_it_takes_its_place_"
        "and_its_place_before_the_row",
        f"{GUARDED}::test_a_power_cut_takes_nothing_that_was_acknowledged",
    ),
    _guard(
        "a rewritten file is laid aside", "sync.upload:_replace",
        "storage.keep_generation(target.place, row.generation)", "0",
        f"{UPLOAD}::test_a_csv_with_other_bytes_is_a_new_generation",
    ),
    _guard(
        "only what goes on stays in its generation", "sync.upload:_is_prefix",
        "return shorter and", "return True or",
        f"{UPLOAD}::test_a_csv_with_other_bytes_is_a_new_generation",
    ),
    # --- in chunks ---
    _guard(
        "an upload's gap is refused", "sync.chunks:_add", "chunk.offset > upload.size", "False",
        f"{CHUNKS}::test_a_gap_and_other_bytes_are_refused_with_where_to_go_on",
    ),
    _guard(
        "an upload's overlap is compared", "sync.chunks:_add", "overlap and overlap !=",
        "False and 0 !=", f"{CHUNKS}::test_a_gap_and_other_bytes_are_refused_with_where_to_go_on",
    ),
    _guard(
        "an upload's overlap is not stored again", "sync.chunks:_add",
        "chunk.data[len(overlap) :]", "chunk.data",
        f"{GUARDED}::test_a_chunk_that_comes_again_is_stored_once",
    ),
    _guard(
        "an upload is compared with its hash", "sync.chunks:_finish", "sha256 != upload.sha256",
        "False", f"{CHUNKS}::test_chunks_that_are_not_the_file_begin_anew",
    ),
    _guard(
        "the attempt is asked for again when all is hashed", "sync.chunks:_finish",
        "check_still(target)", "pass",
        f"{CHUNKS}::test_an_attempt_that_is_given_up_while_its_file_is_hashed_changes_no_result",
    ),
    _guard(
        "an upload that lost bytes goes back", "sync.chunks:_repair", "actual < upload.size",
        "False", f"{CHUNKS}::test_bytes_that_the_disk_lost_are_asked_for_again",
    ),
    _guard(
        "the last chunk may come twice", "sync.chunks:receive",
        "row is not None and _is_stored(target, row, version, chunk)", "False",
        f"{CHUNKS}::test_the_last_chunk_that_comes_twice_is_told_that_it_is_done",
    ),
    _guard(
        "a hash of another process's bytes is not used", "sync.chunks:_Digests.take",
        "(size, moved_at) == (upload.size, upload.moved_at)", "True",
        f"{CHUNKS}::test_a_hash_is_of_no_use_once_another_process_went_on",
    ),
    _guard(
        "an upload has one writer", "sync.storage:_wait_for",
        "return fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)", "return None",
        f"{CHUNKS}::test_an_upload_has_one_writer",
    ),
    # --- compressed ---
    _guard(
        "no more is unpacked than was said", "sync.serializers:_unzipped", "body, length + 1",
        "body", f"{TOGETHER}::test_a_bomb_takes_no_memory",
    ),
    # --- the agent ---
    _guard(
        "the beginning is compared", "agent.files.growing:Growing._read_prefix",
        "or digest.hexdigest() != sent.sha256", "",
        f"{GROWING}::test_a_column_that_is_added_begins_a_generation",
    ),
    _guard(
        "one that is short is waited for", "agent.files.growing:Growing._begin_anew",
        "not exited and self._is_being_rewritten(mark, sent)", "False",
        f"{GROWING}::test_a_file_in_the_middle_of_being_rewritten_is_waited_for",
    ),
    _guard(
        "a generation is journalled before its use", "agent.files.tracked:Tracked._keep",
        "self._journal.put(self.run.attempt_id, self.name, sent)", "pass",
        f"{GROWING}::test_a_generation_is_in_the_journal_before_it_is_used",
    ),
    _guard(
        "a lost journal asks the server", "agent.files.tracked:Tracked._begin",
        "max(run.on_server[self.name], before)", "before",
        f"{GROWING}::test_a_lost_journal_takes_a_generation_that_was_never_used",
    ),
    _guard(
        "only what was asked for is acknowledged", "agent.files.tracked:stored",
        "data.get(key) != value", "False",
        f"{GUARDED}::test_an_answer_to_something_else_acknowledges_nothing",
    ),
    _guard(
        "the end is confirmed by the whole", "agent.files.growing:Growing._step", "if exited:",
        "if False:", f"{GROWING}::test_the_end_is_confirmed_by_the_hash_of_the_whole",
    ),
    _guard(
        "what the server lost is sent again", "agent.files.growing:Growing._go_back",
        "digest.hexdigest() == sent.sha256", "False",
        f"{GROWING}::test_what_the_server_lost_is_sent_again_from_there",
    ),
    _guard(
        "a file that moved while it was read is not sent", "agent.files.upload:Whole._hash",
        "size != mark.size or read_mark(source) != mark", "False",
        f"{GUARDED}::test_a_checkpoint_that_is_written_while_it_is_read_is_left_for_later",
    ),
    _guard(
        "a version that was overtaken is not sent on", "agent.files.upload:Whole._send_in_chunks",
        "self._is_overtaken(mark, read_mark(source))", "False",
        f"{WHOLE}::test_the_newest_version_wins_at_the_end_of_a_chunk",
    ),
    _guard(
        "but not twice in a row", "agent.files.upload:Whole._is_overtaken",
        "not is_newest and not self._gave_up", "not is_newest",
        f"{WHOLE}::test_but_not_twice_in_a_row",
    ),
    _guard(
        "an upload goes on where the server is", "agent.files.upload:Whole._send_in_chunks",
        "offset = transport.upload_offset(self.run.experiment_uid, self.name, upload_id, headers)",
        "offset = 0",
        f"{WITH_AGENT}::test_an_agent_that_was_killed_in_the_middle_of_a_checkpoint_goes_on",
    ),
    # --- for pairs ---
    _guard(
        "a late chunk is stale when it comes", "sync.chunks:receive",
        "check_not_stale(target, version, newest.version if newest else (0, 0))", "pass",
        f"{CHUNKS}::test_a_newer_version_takes_the_place_of_one_that_is_on_its_way",
    ),
    _guard(
        "and when it takes its place", "sync.upload:take_place",
        "check_not_stale(target, version, row.version)", "pass",
        f"{CHUNKS}::test_nor_does_one_that_was_overtaken_while_it_was_hashed",
    ),
]  # fmt: skip

PAIRS = [
    Pair(
        "a late chunk is stale when it comes", "and when it takes its place",
        f"{CHUNKS}::test_a_late_last_chunk_of_an_older_version_does_not_take_the_place_of_a_newer",
    ),
    Pair(
        "a delta is compared with its checksum", "the whole is compared at the end",
        f"{GUARDED}::test_a_damaged_chunk_is_healed_at_the_end_at_last",
    ),
]  # fmt: skip

BY_NAME = {guard.name: guard for guard in GUARDS}


# --- taking one out ------------------------------------------------------------------------------


@contextmanager
def without(guard: Guard) -> Iterator[None]:
    function, code = _function(guard), changed(guard)
    before, function.__code__ = function.__code__, code
    try:
        yield
    finally:
        function.__code__ = before


def changed(guard: Guard) -> CodeType:
    """The function's code without the guard; whoever has imported the function runs it too."""
    function = _function(guard)
    source = textwrap.dedent(inspect.getsource(function))
    assert source.count(guard.was) == 1, f"{guard.where} does not say “{guard.was}” once"
    tree = ast.parse(source.replace(guard.was, guard.becomes))
    tree.body[0].decorator_list.clear()  # type: ignore[attr-defined]
    made: dict[str, Any] = {}
    exec(compile(tree, f"<without {guard.name}>", "exec"), function.__globals__, made)
    [new] = made.values()
    return new.__code__


def _function(guard: Guard) -> Callable[..., Any]:
    module, _, path = guard.where.partition(":")
    found: Any = import_module(module)
    for name in path.split("."):
        found = getattr(found, name)
    return inspect.unwrap(found)


# --- as a plugin of pytest -----------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """A test, and what is taken out while it runs."""

    without: tuple[str, ...]
    test: str
    dies: bool


def cases() -> list[Case]:
    found = [Case((guard.name,), test, True) for guard in GUARDS for test in guard.killed_by]
    for pair in PAIRS:
        found.append(Case((pair.one,), pair.killed_by, False))
        found.append(Case((pair.other,), pair.killed_by, False))
        found.append(Case((pair.one, pair.other), pair.killed_by, True))
    return found


class Plugin:
    @pytest.fixture(autouse=True)
    def _without(self, request: pytest.FixtureRequest) -> Iterator[None]:
        with ExitStack() as out:
            for name in request.param:
                out.enter_context(without(BY_NAME[name]))
            yield

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """A test once for each guard that it is to notice: it fails, or else that is a failure."""
        found = [case for case in cases() if metafunc.definition.nodeid == f"tests/{case.test}"]
        for case in found:
            for name in case.without:
                changed(BY_NAME[name])
        must_fail = pytest.mark.xfail(strict=True, reason="a guard is out")
        params = [
            pytest.param(
                case.without,
                id=f"without: {' and '.join(case.without)}",
                marks=[must_fail] * case.dies,
            )
            for case in found
        ]
        metafunc.parametrize("_without", params, indirect=True)


def main() -> int:
    tests = list(dict.fromkeys(f"tests/{case.test}" for case in cases()))
    return pytest.main(["-q", "-p", "no:cacheprovider", *sys.argv[1:], *tests], [Plugin()])


if __name__ == "__main__":
    sys.exit(main())
