"""Bugs that somebody might make, each with the tests that have to find it; run.py puts them into a copy, one by one.

A bug is a text that is there exactly once and what stands in its place, not a patch: so it survives changes around it.
Where its text is there no more, the bug has to be seeded anew: test_seeded.py says so, and nothing is ever left out.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Mutant:
    """One seeded bug.

    Attributes:
        name: What it is called.
        sentence: What is wrong with it.
        file: Where it goes.
        old: The text to replace, there exactly once.
        new: What replaces it.
        tests: Which have to find it, of those in ``make test``: ``path::name``, all of its parameters.
    """

    name: str
    sentence: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]


def mutated(mutant: Mutant, text: str) -> str:
    """Return a file's text with the bug; raises ValueError where it cannot be put there."""
    found = text.count(mutant.old)
    if found != 1:
        raise ValueError(f"{mutant.name}: its text is {found} times in {mutant.file}, not once; seed it anew")
    changed = text.replace(mutant.old, mutant.new)
    compile(changed, mutant.file, "exec")
    return changed


TIME = (
    Mutant(
        "timeout-after-the-write",
        "A call's time begins only when its request has been written.",
        "mcp_sync/engine/peer.py",
        "            in_time = self._wait(ticket, deadline)\n",
        "            deadline = Deadline(deadline.limit)\n            in_time = self._wait(ticket, deadline)\n",
        ("tests/engine/test_callers.py::test_the_answer_has_only_the_time_that_writing_the_request_has_left",),
    ),
    Mutant(
        "write-lock-without-deadline",
        "Who wants to write waits for ever for another thread's message.",
        "mcp_sync/engine/channel.py",
        "writing.acquire(timeout=deadline.remaining)",
        "writing.acquire()",
        ("tests/engine/test_callers.py::test_who_waits_while_another_writes_waits_no_longer_than_his_own_deadline",),
    ),
    Mutant(
        "future-without-alarm",
        "A future that nobody waits for is never ended at its deadline.",
        "mcp_sync/engine/peer.py",
        "            if not question.open_ended:\n                ticket.expire(",
        "            if question.open_ended:\n                ticket.expire(",
        ("tests/engine/test_seat.py::test_a_future_that_ends_without_an_answer_is_expected_no_more",),
    ),
    Mutant(
        "retry-after-the-deadline",
        "A pause before a repeat is begun though the deadline comes before its end.",
        "mcp_sync/manage/retry.py",
        " or pause >= deadline.remaining:",
        ":",
        ("tests/manage/test_retry.py::test_a_wait_that_does_not_fit_into_the_deadline_is_not_begun",),
    ),
)

PROCESSES = (
    Mutant(
        "no-killpg",
        "Only the server is ended, and not what it has started.",
        "mcp_sync/transports/process.py",
        "                os.killpg(self._pid, number)\n",
        "                os.kill(self._pid, number)\n",
        ("tests/faults/test_stubborn.py::test_what_a_server_started_goes_with_it",),
    ),
    Mutant(
        "stdin-stays-open",
        "The server's stdin is not closed first, which asks it to end by itself.",
        "mcp_sync/engine/channel.py",
        "            self._pipe.end_writing()\n",
        "            pass\n",
        (
            "tests/engine/test_channel.py::test_a_pipe_is_ended_in_order_and_once",
            "tests/faults/test_stubborn.py::test_a_healthy_server_is_closed_in_half_a_second",
        ),
    ),
    Mutant(
        "landlock-not-applied",
        "The rules for a confined server are made, and never taken on.",
        "mcp_sync/transports/confining.py",
        "            rules.restrict_this_thread()\n",
        "            pass\n",
        ("tests/stdio/test_confinement.py::test_outside_nothing_can_be_done",),
    ),
    Mutant(
        "fork-keeps-descriptors",
        "A forked child keeps the parent's connection open.",
        "mcp_sync/engine/channel.py",
        "        self._pipe.disown()\n",
        "",
        ("tests/engine/test_channel.py::test_in_a_forked_child_a_channel_gives_back_its_copies_and_does_nothing_else",),
    ),
    Mutant(
        "fork-keeps-http-sockets",
        "A forked child keeps the parent's connections over HTTP open.",
        "mcp_sync/transports/web.py",
        "                os.close(line.detach())\n",
        "                pass\n",
        ("tests/faults/test_http_forks.py::test_a_forked_child_has_no_copy_of_the_parents_sockets",),
    ),
    Mutant(
        "sweeping-the-living",
        "Containers are removed though the process that started them lives.",
        "mcp_sync/transports/owners.py",
        "    return not _lives(int(labels[PID]), labels[BEGAN])\n",
        "    return True\n",
        ("tests/transports/test_docker_faults.py::test_what_dead_owners_left_is_removed_and_nothing_else",),
    ),
)

ANSWERS = (
    Mutant(
        "id-as-text",
        "An answer whose id is the text of a number settles the call with that number.",
        "mcp_sync/protocol/session.py",
        "        entry = self._pending.pop(message.id, None)\n",
        "        alike = [one for one in self._pending if str(one) == str(message.id)]\n"
        "        entry = self._pending.pop(alike[0], None) if alike else None\n",
        ("tests/protocol/test_session.py::test_an_answer_to_nothing_is_counted",),
    ),
    Mutant(
        "id-rewritten",
        "A request goes out under another id than the one that is waited for.",
        "mcp_sync/protocol/session.py",
        "        return Request(number, method, dressed)\n",
        "        return Request(number + 1, method, dressed)\n",
        ("tests/protocol/test_session.py::test_requests_are_numbered_from_one",),
    ),
    Mutant(
        "late-answer-to-another",
        "An answer that comes too late settles whichever call has waited longest.",
        "mcp_sync/protocol/session.py",
        "        if entry is None:\n            return self._stray(message.id, message)\n        flaw =",
        "        if entry is None and not self._pending:\n            return self._stray(message.id, message)\n"
        "        entry = entry or self._pending.pop(next(iter(self._pending)))\n        flaw =",
        (
            "tests/protocol/test_session.py::test_an_answer_to_nothing_is_counted",
            "tests/faults/test_timeouts.py::test_a_late_reply_is_dropped_and_counted",
            "tests/faults/test_interleavings.py::test_timeout_then_reply",
        ),
    ),
    Mutant(
        "answer-of-another-over-http",
        "Over HTTP, an answer to another request is taken for the answer to this one.",
        "mcp_sync/transports/streamable.py",
        "        if message.id != request.id or type(message.id) is not type(request.id):\n            answered =",
        "        message = replace(message, id=request.id)\n"
        "        if message.id != request.id:\n            answered =",
        ("tests/faults/test_http_answers.py::test_an_answer_to_somebody_else_is_an_error_for_this_call_at_once",),
    ),
    Mutant(
        "counted-twice",
        "A call that was answered is counted twice.",
        "mcp_sync/protocol/session.py",
        "        self.counters.ok += 1\n        return tuple",
        "        self.counters.ok += 2\n        return tuple",
        ("tests/faults/test_interleavings.py::test_reply_then_timeout",),
    ),
    Mutant(
        "end-not-counted",
        "Calls that the end of the connection fails are counted nowhere.",
        "mcp_sync/protocol/session.py",
        "        self.counters.error += len(tickets)\n",
        "",
        ("tests/protocol/test_session.py::test_the_end_hands_back_all_who_wait_once",),
    ),
    Mutant(
        "initialize-cancelled",
        "A request that begins a conversation is cancelled like any other when its time is over.",
        "mcp_sync/protocol/session.py",
        'UNCANCELLABLE = frozenset({"initialize", "server/discover"})',
        "UNCANCELLABLE: frozenset[str] = frozenset()",
        ("tests/protocol/test_session.py::test_nobody_is_told_that_a_negotiation_is_no_longer_wanted",),
    ),
    Mutant(
        "reader-stops-at-a-bad-message",
        "One message that cannot be read ends the connection.",
        "mcp_sync/engine/channel.py",
        "                self.feed.emit(Unreadable(self.name, message.reason, message.raw))\n",
        "                raise MCPConnectionError(message.reason)\n",
        (
            "tests/engine/test_channel.py::test_noise_is_reported_to_observers",
            "tests/faults/test_malformed.py::test_noise_between_messages_is_skipped_and_the_result_comes",
        ),
    ),
    Mutant(
        "progress-on-the-reader",
        "Progress callbacks run on the thread that reads, and everybody waits for them.",
        "mcp_sync/engine/peer.py",
        "        elif self.lane.offer(lambda: self._report_progress(ticket, params), size):\n"
        "            ticket.progress_posted = True\n",
        "        elif size >= 0:\n            self._report_progress(ticket, params)\n",
        ("tests/faults/test_callbacks.py::test_a_progress_callback_that_hangs_does_not_delay_the_answers_of_others",),
    ),
    Mutant(
        "pages-never-end",
        "A server whose pages lead in a circle is asked for ever.",
        "mcp_sync/client/asking.py",
        "            if cursor in seen:\n",
        "            if not seen and cursor in seen:\n",
        ("tests/client/test_pages.py::test_the_same_cursor_twice_is_an_error",),
    ),
)

SEAT = (
    Mutant(
        "leaver-calls-nobody",
        "Who gets up from the seat does not wake the next who waits.",
        "mcp_sync/engine/seat.py",
        "        elif self._line:\n            self._call_next()\n",
        "",
        ("tests/engine/test_seat_line.py::test_who_tries_in_vain_just_before_the_reader_goes_is_not_forgotten",),
    ),
    Mutant(
        "lines-up-after-the-last-try",
        "A caller tries the seat for the last time before it is in the line, and may be seen by nobody.",
        "mcp_sync/engine/seat.py",
        "        self._line.append(call)\n        if not self._sit_down():\n            return False\n"
        "        self._step_aside(call)\n        return True\n",
        "        if self._sit_down():\n            return True\n"
        "        self._line.append(call)\n        return False\n",
        ("tests/engine/test_seat_line.py::test_who_tries_in_vain_just_before_the_reader_goes_is_not_forgotten",),
    ),
    Mutant(
        "called-and-silent",
        "Who is called out of the line when its answer has come already does not call the next.",
        "mcp_sync/engine/seat.py",
        "        if not self._step_aside(call) and (call.over or not woken):\n            self._call_next()\n",
        "        self._step_aside(call)\n",
        ("tests/engine/test_seat_line.py::test_who_is_called_and_has_no_use_for_the_seat_calls_the_next",),
    ),
    Mutant(
        "keeper-never-back",
        "The keeper stays away though no caller reads any more.",
        "mcp_sync/engine/seat.py",
        "                self._called = True  # nobody else sits down;",
        "                pass  # nobody else sits down;",
        ("tests/engine/test_seat.py::test_what_is_said_unasked_is_heard_though_nobody_calls",),
    ),
    Mutant(
        "main-thread-takes-all",
        "The main thread takes in the answers of others, and Ctrl-C may lose them.",
        "mcp_sync/engine/channel.py",
        "        careful = threading.get_ident() == self._main\n",
        "        careful = False\n",
        ("tests/engine/test_callers.py::test_the_main_thread_leaves_the_answers_of_others_to_others",),
    ),
)

SIZES = (
    Mutant(
        "limit-after-join",
        "A line is joined before its length is looked at.",
        "mcp_sync/protocol/framing.py",
        "        if len(self._rest) > self.limit:\n",
        "        if len(self._rest) > self.limit << 20:\n",
        (
            "tests/protocol/test_framing.py::test_an_overlong_line_is_reported_before_its_end_is_there",
            "tests/protocol/test_framing.py::test_only_the_beginning_and_the_end_of_an_overlong_line_are_kept",
        ),
    ),
    Mutant(
        "fragments-after-join",
        "Fragments over WebSocket are joined before their length together is looked at.",
        "mcp_sync/protocol/frames.py",
        "        elif self._size > self.limit:\n",
        "        elif self._last and self._size > self.limit:\n",
        ("tests/protocol/test_frames.py::test_fragments_that_add_up_to_far_over_the_limit_are_a_flaw",),
    ),
    Mutant(
        "deflate-bomb",
        "A compressed message is unpacked in one piece, however large.",
        "mcp_sync/protocol/deflate.py",
        "self._unpacker.decompress(rest, most)",
        "self._unpacker.decompress(rest)",
        ("tests/protocol/test_frames.py::test_a_bomb_takes_no_more_memory_than_a_few_messages",),
    ),
    Mutant(
        "splitlines-of-text",
        "Lines are split as text is, also at U+2028, which may stand within a message.",
        "mcp_sync/protocol/framing.py",
        "        start = 0\n        while (end := chunk.find(",
        "        text = chunk.decode('utf-8', 'surrogateescape').splitlines() + [''] * chunk.endswith(b'\\n')\n"
        "        chunk = '\\n'.join(text).encode('utf-8', 'surrogateescape')\n"
        "        start = 0\n        while (end := chunk.find(",
        ("tests/protocol/test_separators.py::test_only_a_newline_ends_a_line",),
    ),
    Mutant(
        "frame-masks-ignored",
        "A masked frame of a server is read as if it were not.",
        "mcp_sync/protocol/frames.py",
        "        if second & 0x80:\n",
        "        if second & 0x80 and second == first:\n",
        ("tests/protocol/test_frames.py::test_what_breaks_the_protocol_is_a_flaw_with_its_code_and_the_end",),
    ),
    Mutant(
        "events-with-only-an-id-dropped",
        "An event that has no data is none, though its id is where to go on from.",
        "mcp_sync/protocol/sse.py",
        '    if not data and b"id" not in fields and b"retry" not in fields:\n',
        "    if not data:\n",
        (
            "tests/protocol/test_sse.py::test_the_normal_form",
            "tests/transports/test_events.py::test_the_priming_event_has_no_data",
        ),
    ),
)

HTTP = (
    Mutant(
        "redirects-on",
        "Redirects are followed wherever they lead.",
        "mcp_sync/transports/web.py",
        "        if target is not None and (reply.status not in (307, 308) or not self._may_go(target)):\n",
        "        if target is not None and not target:\n",
        (
            "tests/faults/test_http_traps.py::test_b2_a_redirect_takes_nothing_to_another_origin",
            "tests/faults/test_http_origins.py::test_a_redirect_that_would_make_a_get_of_a_post_is_refused",
        ),
    ),
    Mutant(
        "credentials-to-another-origin",
        "A redirect that is allowed takes the credentials along.",
        "mcp_sync/transports/web.py",
        "            if not same_origin(target, self.url):\n                headers =",
        "            if not same_origin(target, target):\n                headers =",
        ("tests/security/test_origins.py::test_an_allowed_origin_gets_the_message_and_no_credentials",),
    ),
    Mutant(
        "close-without-shutdown",
        "A connection that is given up is closed but not shut down, and who reads from it waits on.",
        "mcp_sync/transports/dialling.py",
        "            socket.socket.shutdown(line, socket.SHUT_RDWR)\n",
        "            socket.close(line.detach())\n",
        ("tests/faults/test_http_traps.py::test_b5_closing_wakes_whoever_reads",),
    ),
    Mutant(
        "jar-without-bounds",
        "A server may have any number of cookies kept.",
        "mcp_sync/transports/web.py",
        "        if large or (len(self) >= COOKIES and cookie.name not in self):\n",
        "        if large and not cookie.name:\n",
        ("tests/transports/test_cookies.py::test_of_a_server_that_sets_many_and_large_cookies_few_are_kept",),
    ),
    Mutant(
        "secrets-in-repr",
        "The repr of credentials shows them.",
        "mcp_sync/credentials.py",
        "{'a function' if self._source else _count(self._tokens)}",
        "{'a function' if self._source else self._tokens}",
        ("tests/ground/test_credentials.py::test_a_repr_tells_the_kind_and_no_secret",),
    ),
)

MANAGER = (
    Mutant(
        "retry-all",
        "Every call is repeated, though it may have run.",
        "mcp_sync/manage/retry.py",
        " or not (safe or ran is False) or ",
        " or ",
        (
            "tests/manage/test_retry.py::test_what_may_have_run_is_not_repeated",
            "tests/manage/test_retry.py::test_a_call_is_sent_again_only_until_it_may_have_run",
        ),
    ),
    Mutant(
        "failover-of-what-may-have-run",
        "A call is tried elsewhere where nobody knows whether it has run.",
        "mcp_sync/manage/failover.py",
        "(repeatable or error.may_have_run is False)",
        "(repeatable or not error.may_have_run)",
        ("tests/manage/test_failover.py::test_the_write_began_then_the_link_died",),
    ),
    Mutant(
        "two-probes",
        "While one call finds out whether a server is back, others may as well.",
        "mcp_sync/manage/breaker.py",
        '            self._become("half-open", now + seconds + GRACE_SECONDS)\n',
        '            self._become("half-open", now)\n',
        (
            "tests/manage/test_breaker.py::test_while_one_probes_nothing_else_is_sent",
            "tests/manage/test_breaker.py::test_of_eight_who_come_at_once_one_may_probe",
        ),
    ),
    Mutant(
        "old-news-counts",
        "A call from before the circuit opened decides about the server of today.",
        "mcp_sync/manage/breaker.py",
        "            if passage.period != self._period:\n                return None\n",
        "",
        ("tests/manage/test_breaker.py::test_a_call_from_before_it_opened_says_nothing_of_today",),
    ),
)

SERVER = (
    Mutant(
        "host-not-checked",
        "Unless told to, the server looks neither at Host nor at Origin, and any page may call it.",
        "mcp_sync/server/security.py",
        "        if self.enable_dns_rebinding_protection is False:\n",
        "        if self.enable_dns_rebinding_protection is not True:\n",
        ("tests/server/test_security.py::test_T1_without_settings_a_server_of_this_machine_is_protected",),
    ),
    Mutant(
        "session-of-another",
        "Who knows the id of a session has it, whoever it belongs to.",
        "mcp_sync/server/sessions.py",
        '        if value is None or value["principal"] != principal:\n',
        "        if value is None:\n",
        ("tests/server/test_sessions.py::test_a_session_is_its_principals_alone",),
    ),
    Mutant(
        "answered-twice",
        "A second thread writes the response to a request that the host's thread has answered meanwhile.",
        "mcp_sync/server/exchange.py",
        "        if not self._may_write():\n            return\n",
        "        self._may_write()\n",
        ("tests/server/test_own_host.py::test_a_second_thread_that_comes_too_late_writes_nothing",),
    ),
    Mutant(
        "said-after-the-answer",
        "What is said after the answer to a request is kept for a client that comes back for the rest.",
        "mcp_sync/server/exchange.py",
        "        if not self._finished and self._become_stream():\n",
        "        if self._become_stream():\n",
        ("tests/server/test_exchange.py::test_nothing_is_kept_for_a_client_that_comes_back_once_the_answer_is",),
    ),
    Mutant(
        "another-answer",
        "A request that was answered is answered again, by whoever comes to that later.",
        "mcp_sync/server/exchange.py",
        "            if self._finished:\n                return\n",
        "",
        ("tests/server/test_exchange.py::test_the_first_answer_is_the_answer",),
    ),
    Mutant(
        "withdrawn-and-answered",
        "A request that was cancelled is answered all the same.",
        "mcp_sync/protocol/session.py",
        "        if request_id in self._serving:\n            self._serving.discard(request_id)\n"
        "            return Withdrawn",
        "        if request_id in self._serving:\n            return Withdrawn",
        ("tests/protocol/test_session.py::test_a_withdrawn_question_is_not_answered_any_more",),
    ),
    Mutant(
        "state-under-another-key",
        "State that was sealed with another key is taken.",
        "mcp_sync/server/sealing.py",
        "hmac.new(self._key, ",
        'hmac.new(b"key", ',
        ("tests/server/test_sealing.py::test_it_is_good_for_one_thing_with_one_key_for_a_while",),
    ),
    Mutant(
        "state-for-anything",
        "Sealed state is good for another request than the one it was made for.",
        "mcp_sync/server/sealing.py",
        'f"{body}\\0{bound}".encode()',
        'f"{body}\\0".encode()',
        ("tests/server/test_sealing.py::test_it_is_good_for_one_thing_with_one_key_for_a_while",),
    ),
    Mutant(
        "body-read-beyond-the-limit",
        "A request's body is read far beyond the limit before its size is looked at.",
        "mcp_sync/server/gate.py",
        "            if total > self._max_body_size:\n",
        "            if total > self._max_body_size << 5:\n",
        ("tests/server/test_wsgi.py::test_what_is_too_large_without_a_length_is_read_no_further",),
    ),
)

INTERRUPTS = (
    Mutant(
        "future-that-stays-locked",
        "Ctrl-C in a future leaves it locked, as it does those of the standard library.",
        "mcp_sync/engine/caller.py",
        "self._condition = interrupts.Condition()  # type: ignore[assignment]  # guards what is the Future's own\n",
        "pass\n",
        ("tests/concurrency/test_interrupting.py::test_nobody_waits_for_who_was_interrupted_at_a_future",),
    ),
    Mutant(
        "settling-that-waits",
        "A reader waits for what Ctrl-C left locked in concurrent.futures.wait().",
        "mcp_sync/engine/caller.py",
        "        if told and not _settlers.start(lambda: self._tell(told)):\n",
        "        if told:\n",
        ("tests/concurrency/test_interrupting.py::test_who_settles_a_future_never_waits_for_what_others_left_locked",),
    ),
    Mutant(
        "wake-up-that-is-lost",
        "An Event is set between the look at it and going to sleep.",
        "mcp_sync/engine/interrupts.py",
        "            return self.is_set() or _sleep(door, timeout)\n",
        "            return _sleep(door, timeout)\n",
        ("tests/concurrency/test_interrupting.py::test_an_event_that_is_set_while_somebody_goes_to_sleep_wakes_it",),
    ),
)

MUTANTS = (*INTERRUPTS, *TIME, *PROCESSES, *ANSWERS, *SEAT, *SIZES, *HTTP, *MANAGER, *SERVER)
