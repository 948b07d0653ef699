import contextlib
import gc
import itertools
import math
import os
import subprocess
import sys
import textwrap
import threading
import time
import weakref

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from softargmax.kernels import threads

MANY = 1 << 22  # elements: 32 chunks or so

HANG = 60  # seconds until a call that does not return has failed


@contextlib.contextmanager
def n_threads(n):
    """As on a machine of n CPUs, with a pool of its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(threads, "n_threads", lambda: n)
        threads._pool.clear()
        yield
        threads._pool.clear()


def in_time(*functions):
    """Each in a thread of its own, all at once; an error in one is raised here, and a hang is one."""
    errors, start = [], threading.Barrier(len(functions))

    def run(function):
        try:
            start.wait()
            function()
        except BaseException as error:
            errors.append(error)

    workers = [threading.Thread(target=run, args=(f,), daemon=True) for f in functions]
    for worker in workers:
        worker.start()
    end = time.monotonic() + HANG
    for worker in workers:
        worker.join(max(0, end - time.monotonic()))
        assert not worker.is_alive(), "hangs"
    if errors:
        raise errors[0]


def script(program, *arguments, **environment):
    """Run it in a fresh interpreter with 4 threads, unless `environment` says otherwise."""
    usual = {k: v for k, v in os.environ.items() if k not in ("NUMBA_NUM_THREADS", "OMP_NUM_THREADS", "PYTHONWARNINGS")}
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program), *arguments],
        env=usual | {"NUMBA_NUM_THREADS": "4"} | environment,
        capture_output=True,
        text=True,
        timeout=HANG,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return result


def quiet_script(program, *arguments, **environment):
    result = script(program, *arguments, **environment)
    assert result.stderr == ""
    return result.stdout


def assert_every_row_once(in_chunks, n, row_elements):
    calls = np.zeros(n, int)
    borders = []

    def run(start, stop):
        borders.append((start, stop))
        calls[start:stop] += 1

    in_chunks(run, n, row_elements)
    assert np.all(calls == 1)
    return sorted(borders)


# --- every row once


@hypothesis.given(st.integers(0, 3_000_000), st.integers(0, 300_000), st.integers(1, 8))
@hypothesis.example(1 << 20, 1, 2)
@hypothesis.example((1 << 20) - 1, 1, 2)
@hypothesis.example((1 << 20) + 1, 1, 8)
@hypothesis.example(2, 1 << 30, 8)
@hypothesis.example(1, 1 << 30, 8)
def test_every_row_is_in_one_call(n, row_elements, count):
    n = min(n, 20_000) if row_elements > 1000 else n
    with n_threads(count):
        borders = assert_every_row_once(threads.in_chunks, n, row_elements)
    if count == 1 or n * row_elements < 1 << 20:
        assert borders == [(0, n)]
    for start, stop in borders[:-1]:
        rows = stop - start
        assert rows == 1 or rows * row_elements <= 1 << 18
        assert rows < 64 or start % 64 == rows % 64 == 0


@pytest.mark.parametrize(
    "broken",
    [
        lambda run, n, k: threads.in_chunks(run, n - 1, k),
        lambda run, n, k: threads.in_chunks(lambda a, b: run(a, min(b + 1, n)), n, k),
        lambda run, n, k: threads.in_chunks(lambda a, b: run(a, b - (a > 0)), n, k),
        lambda run, n, k: threads.in_chunks(lambda a, b: a and run(a, b), n, k),
    ],
    ids=["the last row left out", "rows twice", "a row lost in each chunk but one", "the first chunk left out"],
)
def test_the_test_of_rows_sees_a_broken_cut(broken):
    with n_threads(3), pytest.raises(AssertionError):
        assert_every_row_once(broken, 100_000, 50)


@pytest.mark.parametrize("count", range(2, 9))
def test_that_many_threads_compute_at_once(count):
    # a barrier lets nobody pass until all are there
    together, first = threading.Barrier(count, timeout=HANG), itertools.count()
    names = set()

    def run(start, stop):
        names.add(threading.current_thread().name)
        if next(first) < count:
            together.wait()

    with n_threads(count):
        threads.in_chunks(run, MANY, 1)
    helpers = names - {threading.current_thread().name}
    assert len(helpers) == count - 1
    assert all(name.startswith("softargmax") for name in helpers)


@pytest.mark.parametrize("row_elements", [1, 10, 1000, 50_000, 1 << 17])
def test_chunks_suffice_for_all_threads_and_none_is_tiny(row_elements):
    n = MANY // row_elements
    with n_threads(8):
        borders = assert_every_row_once(threads.in_chunks, n, row_elements)
    assert len(borders) >= 4 * 8
    assert all((stop - start) * row_elements >= 1 << 16 for start, stop in borders[:-1])


# --- sums


def sums_with(count, run, n, row_elements, shape):
    with n_threads(count):
        return threads.sums_of_chunks(run, n, row_elements, shape)


def borders_of_sums(n, row_elements, count):
    borders = []
    sums_with(count, lambda a, b, sums: borders.append((a, b)), n, row_elements, ())
    return sorted(borders)


def sums_in_order_of_arrival(run, n, row_elements, shape):
    total, lock = np.zeros(shape), threading.Lock()

    def run_and_add(start, stop):
        sums = np.zeros(shape)
        run(start, stop, sums)
        with lock:
            total[...] += sums

    threads.in_chunks(run_and_add, n, row_elements)
    return total


def assert_same_bits_for_every_number_of_threads(sums_of_chunks):
    n, row_elements = 40_000, 100
    rng = np.random.default_rng(0)
    x = rng.standard_normal((n, 2)) * np.exp(30 * rng.standard_normal((n, 1)))
    x[:, 0] = np.abs(x[:, 0])
    x[-1, 1] = -math.fsum(x[:-1, 1])  # little is left, so that even compensated sums show their order
    results = set()
    for count in range(1, 9):
        pause = dict(zip(range(n), rng.exponential(2e-4, n), strict=True))

        def run(start, stop, sums, pause=pause):
            time.sleep(pause[start])  # chunks end in another order each time
            sums += [math.fsum(x[start:stop, 0]), x[start:stop, 1].sum()]

        with n_threads(count):
            result = sums_of_chunks(run, n, row_elements, (2,))
        results.add(result.tobytes())
    assert len(results) == 1
    np.testing.assert_allclose(result[0], math.fsum(x[:, 0]), rtol=1e-15)


def test_sums_have_the_same_bits_for_every_number_of_threads():
    assert_same_bits_for_every_number_of_threads(threads.sums_of_chunks)


def test_the_test_of_bits_sees_sums_in_order_of_arrival():
    with pytest.raises(AssertionError):
        assert_same_bits_for_every_number_of_threads(sums_in_order_of_arrival)


@pytest.mark.parametrize(("n", "row_elements"), [(5, 10), (3000, 300), (40_000, 100), (MANY + 77, 1), (9, 1 << 18)])
def test_sums_cut_the_same_chunks_for_every_number_of_threads(n, row_elements):
    borders = borders_of_sums(n, row_elements, 1)
    assert [start for start, _ in borders] == [0] + [stop for _, stop in borders[:-1]]
    assert borders[-1][1] == n
    assert all(borders_of_sums(n, row_elements, count) == borders for count in range(2, 9))


@pytest.mark.parametrize("count", [1, 2, 8])
def test_sums_lose_nothing_between_chunks(count):
    # each chunk's own sum is exact, so that only the adding up can round: plainly added, the ones vanish
    borders = borders_of_sums(MANY, 1, 1)
    terms = dict.fromkeys((start for start, _ in borders), 1.0) | {0: 1e17, borders[-1][0]: -1e17}

    def run(start, stop, sums):
        sums += terms[start]

    assert sum(terms.values()) != math.fsum(terms.values()) == len(borders) - 2
    assert sums_with(count, run, MANY, 1, ()) == len(borders) - 2


@pytest.mark.parametrize("shape", [(), (3,), (2, 4)])
@pytest.mark.parametrize("n", [0, 1, 1000, MANY])
def test_sums_have_their_shape_and_begin_at_zero(shape, n):
    def run(start, stop, sums):
        assert sums.shape == shape
        assert not sums.any()
        sums += stop - start

    result = sums_with(4, run, n, 1, shape)
    assert isinstance(result, np.ndarray)
    assert result.dtype == np.float64
    assert result.shape == shape
    assert np.all(result == n)


def test_infinities_and_nan_are_summed_as_they_are():
    (first, _), (second, _), *_ = borders_of_sums(MANY, 1, 1)
    terms = {first: [np.inf, -np.inf, np.inf, np.nan, 1e308], second: [1, 1, -np.inf, 1, 1e308]}

    def run(start, stop, sums):
        sums += terms.get(start, 1)

    np.testing.assert_array_equal(sums_with(3, run, MANY, 1, (5,)), [np.inf, -np.inf, np.nan, np.nan, np.inf])


# --- at once, nested, few helpers


def test_eight_threads_call_at_once():
    def caller():
        for _ in range(20):
            assert_every_row_once(threads.in_chunks, 30_000, 100)
            total = threads.sums_of_chunks(lambda a, b, sums: np.add(sums, b - a, sums), 30_000, 100, ())
            assert total == 30_000

    with n_threads(4):
        in_time(*[caller] * 8)


@pytest.mark.parametrize("count", [2, 3, 8])
def test_a_chunk_may_itself_be_cut_in_chunks(count):
    outer = np.zeros(1 << 14, int)

    def run(start, stop):
        def run_within(a, b):
            assert_every_row_once(threads.in_chunks, 1 << 15, 64)

        threads.in_chunks(run_within, 1 << 14, 128)
        outer[start:stop] += 1

    with n_threads(count):
        in_time(lambda: threads.in_chunks(run, len(outer), 128))
    assert np.all(outer == 1)


def test_a_busy_pool_is_not_waited_for_and_keeps_no_arrays():
    # its only helper is held; the request to help stays in its queue
    free = threading.Event()
    with n_threads(2):
        assert_every_row_once(threads.in_chunks, MANY, 1)
        held = threads._pool["pool"].submit(free.wait, HANG)
        try:

            def call():
                x = np.zeros(MANY)
                threads.in_chunks(lambda a, b: np.add(x[a:b], 1, x[a:b]), MANY, 1)
                assert np.all(x == 1)
                alive.append(weakref.ref(x))

            alive = []
            in_time(call)
            gc.collect()
            assert alive[0]() is None
        finally:
            free.set()
        held.result()


@pytest.mark.parametrize("starts", [0, 1, 3])
def test_no_more_threads_from_the_system(starts, monkeypatch):
    left, start = iter(range(starts)), threading.Thread.start

    def scarce(self):
        if self.name.startswith("softargmax") and next(left, None) is None:
            raise RuntimeError("can't start new thread")
        start(self)

    monkeypatch.setattr(threading.Thread, "start", scarce)
    with n_threads(8):
        x = np.zeros(MANY)

        def run(a, b):
            time.sleep(1e-3)
            x[a:b] += 1

        for done in range(1, 4):  # a request that was refused is still in the queue
            threads.in_chunks(run, MANY, 1)
            assert np.all(x == done)


def test_a_signal_handler_computes_while_its_thread_asks_for_help():
    assert (
        quiet_script("""
        import os, signal
        from concurrent.futures import ThreadPoolExecutor
        import numpy as np
        from softargmax.kernels.threads import in_chunks

        def total():
            x = np.zeros(1 << 21)
            in_chunks(lambda a, b: np.add(x[a:b], 1, x[a:b]), len(x), 1)
            return bool(x.sum() == len(x))

        within = []
        signal.signal(signal.SIGUSR1, lambda *_: within.append(total()))
        adjust = ThreadPoolExecutor._adjust_thread_count

        def amid_submit(self):
            if not within:
                signal.raise_signal(signal.SIGUSR1)
            adjust(self)

        ThreadPoolExecutor._adjust_thread_count = amid_submit
        print(total(), within, total())
    """)
        == "True [True] True\n"
    )


# --- errors


class StopHereError(Exception):
    pass


@pytest.mark.parametrize("error", [StopHereError(), SystemExit(3)], ids=repr)
@pytest.mark.parametrize("who", ["caller", "helper"])
def test_an_error_ends_the_call_when_nobody_writes_any_more(who, error):
    caller, together, raised = threading.current_thread(), threading.Barrier(2, timeout=HANG), threading.Event()
    begun, ended = [], []

    def run(start, stop):
        begun.append(start)
        if len(begun) <= 2:
            together.wait()
        if (threading.current_thread() is caller) == (who == "caller"):
            raised.set()
            raise error
        raised.wait(HANG)
        time.sleep(0.3)  # time for the other to say so
        ended.append(start)

    with n_threads(2):
        with pytest.raises(type(error)) as caught:
            threads.in_chunks(run, MANY, 1)
        assert caught.value is error
        assert len(begun) < 6  # of 32: the two, or a few more on a machine that stalls
        assert len(ended) == len(begun) - 1
        assert_every_row_once(threads.in_chunks, MANY, 1)  # and the pool is whole


def test_an_error_of_sums_is_raised():
    def run(start, stop, sums):
        if start:
            raise StopHereError

    for count in (1, 2, 8):
        with pytest.raises(StopHereError):
            sums_with(count, run, MANY, 1, ())


def test_an_error_of_a_helper_keeps_no_arrays():
    x, caller = np.zeros(MANY), threading.current_thread()
    together = threading.Barrier(2, timeout=HANG)

    def run(start, stop, x=x):
        if x[0] == 0:
            together.wait()
            x[0] = 1
        if threading.current_thread() is not caller:
            raise StopHereError

    alive = weakref.ref(x)
    gc.disable()
    try:
        with n_threads(2), contextlib.suppress(StopHereError):
            threads.in_chunks(run, MANY, 1)
        del run, x
        end = time.monotonic() + HANG
        while alive() is not None and time.monotonic() < end:
            time.sleep(0.01)  # the helper forgets its last task a moment after the call
        assert alive() is None
    finally:
        gc.enable()


@pytest.mark.parametrize("when", ["computes", "waits"])
def test_ctrl_c_is_raised_when_nobody_writes_any_more(when):
    assert (
        quiet_script(
            """
        import os, signal, sys, threading, time
        from softargmax.kernels.threads import in_chunks

        begun, ended, helper_is_in, caller_is_out = [], [], threading.Event(), threading.Event()

        def run(start, stop):
            begun.append(start)
            if threading.current_thread() is not threading.main_thread():
                helper_is_in.set()
                if sys.argv[1] == "waits":
                    while len(ended) < 31:  # until the caller has done all other chunks and waits for this one
                        time.sleep(0.01)
                    time.sleep(0.2)
                    os.kill(os.getpid(), signal.SIGINT)
                time.sleep(0.5)
            else:
                helper_is_in.wait()
                if sys.argv[1] == "computes":
                    signal.raise_signal(signal.SIGINT)
            ended.append(start)

        try:
            in_chunks(run, 1 << 22, 1)
        except KeyboardInterrupt:
            print(len(begun) - len(ended), len(begun))
        again = []
        in_chunks(lambda a, b: again.append(b - a), 1 << 22, 1)
        print(sum(again))
        """,
            when,
            NUMBA_NUM_THREADS="2",
        )
        == {"computes": "1 2\n4194304\n", "waits": "0 32\n4194304\n"}[when]
    )


# --- processes

ROWS = """
import itertools, os, sys, threading, time
import numpy as np
from softargmax.kernels import threads

def rows_in_two_threads():
    \"\"\"The sum of a million and more rows; nobody passes the barrier but with a helper.\"\"\"
    together, first = threading.Barrier(2, timeout=30), itertools.count()
    x = np.zeros(1 << 21)
    def run(a, b):
        if next(first) < 2:
            together.wait()
        x[a:b] += 1
    threads.in_chunks(run, len(x), 1)
    return int(x.sum())
"""


def with_rows(program):
    return ROWS + textwrap.dedent(program)


def test_a_forked_child_has_a_pool_of_its_own():
    # also while other threads of the parent are computing, so that the fork finds their locks taken
    program = with_rows("""
        assert rows_in_two_threads() == 1 << 21
        stop = threading.Event()
        def busy():
            while not stop.is_set():
                threads.in_chunks(lambda a, b: None, 1 << 20, 1)
        others = [threading.Thread(target=busy) for _ in range(3)]
        for other in others:
            other.start()
        for _ in range(20):
            child = os.fork()
            if child == 0:
                os._exit(0 if rows_in_two_threads() == rows_in_two_threads() == 1 << 21 else 1)
            assert os.waitpid(child, 0)[1] == 0
        stop.set()
        assert rows_in_two_threads() == 1 << 21
        print("done")
    """)
    assert script(program).stdout == "done\n"


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_worker_processes(method, tmp_path):
    path = tmp_path / "work.py"
    path.write_text(
        with_rows("""
        import multiprocessing
        from concurrent.futures import ProcessPoolExecutor

        def rows(_):
            return rows_in_two_threads()

        if __name__ == "__main__":
            before = rows_in_two_threads()
            with ProcessPoolExecutor(2, multiprocessing.get_context(sys.argv[1])) as workers:
                print(before, *workers.map(rows, range(4)))
        """)
    )
    result = subprocess.run(
        [sys.executable, path, method],
        env=os.environ | {"NUMBA_NUM_THREADS": "2"},
        capture_output=True,
        text=True,
        timeout=HANG,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.split() == ["2097152"] * 5


# --- the exit of the interpreter

SUM = """
import atexit, sys, threading, time
import numpy as np
from softargmax.kernels.threads import in_chunks, sums_of_chunks

def show():
    x = np.zeros(1 << 21)
    in_chunks(lambda a, b: np.add(x[a:b], 1, x[a:b]), len(x), 1)
    print(x.sum(), sums_of_chunks(lambda a, b, sums: np.add(sums, b - a, sums), 1 << 21, 1, ()), flush=True)
"""
SHOWN = "2097152.0 2097152.0\n"


def test_at_exit_after_use_of_the_pool():
    assert quiet_script(SUM + "atexit.register(show)\nshow()") == 2 * SHOWN


def test_at_exit_for_the_first_time():
    assert quiet_script(SUM + "atexit.register(show)\nassert 'concurrent.futures.thread' not in sys.modules") == SHOWN


def test_at_exit_when_even_this_module_is_new():
    program = "import atexit\natexit.register(lambda: exec(" + repr(SUM + "show()") + ", globals()))"
    assert quiet_script(program) == SHOWN


def test_in_a_destructor_after_all_exit_handlers():
    # garbage in a cycle, collected when threads can no longer run
    program = """
        import gc
        gc.set_threshold(1 << 30)
        class Last:
            def __del__(self):
                show()
        last = Last()
        last.itself = last
        del last
        atexit.register(print, "exit")
        show()
    """
    assert quiet_script(SUM + textwrap.dedent(program)) == SHOWN + "exit\n" + SHOWN


def test_a_thread_computes_on_while_the_main_one_ends():
    program = """
        def work():
            for _ in range(100):
                in_chunks(lambda a, b: time.sleep(1e-4), 1 << 20, 1)
            show()
        threading.Thread(target=work).start()
        time.sleep(0.02)
    """
    assert quiet_script(SUM + textwrap.dedent(program)) == SHOWN


@pytest.mark.parametrize("count", [1, 3])
def test_daemon_threads_compute_while_the_interpreter_ends(count):
    program = """
        x = np.ones(1 << 21)
        def work():
            while True:
                in_chunks(lambda a, b: np.sqrt(x[a:b], x[a:b]), len(x), 1)
        for _ in range(int(sys.argv[1])):
            threading.Thread(target=work, daemon=True).start()
        time.sleep(0.05)
        show()
    """
    for _ in range(5):
        assert quiet_script(SUM + textwrap.dedent(program), str(count)) == SHOWN


# --- how many threads

COUNT = "from softargmax.kernels.threads import n_threads; print(n_threads(), n_threads())"


@pytest.mark.parametrize(
    ("environment", "count"),
    [
        ({"NUMBA_NUM_THREADS": "3"}, 3),
        ({"NUMBA_NUM_THREADS": "3", "OMP_NUM_THREADS": "5"}, 3),
        ({"NUMBA_NUM_THREADS": "3", "OMP_NUM_THREADS": "nonsense"}, 3),
        ({"NUMBA_NUM_THREADS": "", "OMP_NUM_THREADS": "5"}, 5),
        ({"NUMBA_NUM_THREADS": "", "OMP_NUM_THREADS": "4,2"}, 4),
    ],
)
def test_the_environment_says_how_many_threads(environment, count):
    assert quiet_script(COUNT, **environment) == f"{count} {count}\n"


ONE_CPU = "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
linux = pytest.mark.skipif(sys.platform != "linux", reason="affinity is Linux's")


@linux
@pytest.mark.parametrize("omp", ["", None])
def test_only_the_cpus_this_process_may_use(omp):
    environment = {"NUMBA_NUM_THREADS": ""} | ({} if omp is None else {"OMP_NUM_THREADS": omp})
    assert quiet_script(ONE_CPU + COUNT, **environment) == "1 1\n"


@linux
@pytest.mark.parametrize(
    ("environment", "count", "said"),
    [
        ({"NUMBA_NUM_THREADS": "0"}, 1, "NUMBA_NUM_THREADS is '0', wanted"),
        ({"NUMBA_NUM_THREADS": "-1"}, 1, "NUMBA_NUM_THREADS is '-1', wanted"),
        ({"NUMBA_NUM_THREADS": "4,2"}, 1, "NUMBA_NUM_THREADS is '4,2', wanted"),
        ({"NUMBA_NUM_THREADS": "2.5", "OMP_NUM_THREADS": "6"}, 6, "NUMBA_NUM_THREADS is '2.5', wanted"),
        ({"NUMBA_NUM_THREADS": "", "OMP_NUM_THREADS": "abc"}, 1, "OMP_NUM_THREADS is 'abc', wanted"),
        ({"NUMBA_NUM_THREADS": "", "OMP_NUM_THREADS": ",2"}, 1, "OMP_NUM_THREADS is ',2', wanted"),
        (
            {"NUMBA_NUM_THREADS": "many", "OMP_NUM_THREADS": "0,2"},
            1,
            "NUMBA_NUM_THREADS is 'many' and OMP_NUM_THREADS is '0,2', wanted",
        ),
    ],
)
def test_nonsense_in_the_environment_is_said_once(environment, count, said):
    result = script(ONE_CPU + COUNT, **environment)
    assert result.stdout == f"{count} {count}\n"
    used = {
        1: "using 1 thread, by the CPUs this process may use",
        6: "using 6 threads, as OMP_NUM_THREADS says",
    }[count]
    # the line that called, in the words of warnings.showwarning
    assert result.stderr == f"<string>:2: RuntimeWarning: {said} a whole number of at least 1; {used}\n"


def test_nonsense_is_said_once_to_eight_threads_at_once():
    program = """
        import sys, threading, time, warnings
        sys.setswitchinterval(1e-6)
        warnings.simplefilter("always")
        from softargmax.kernels.threads import in_chunks
        start = threading.Barrier(8)
        def work():
            start.wait()
            in_chunks(lambda a, b: None, 1 << 20, 1)
        for _ in range(8):
            threading.Thread(target=work).start()
    """
    assert script(program, NUMBA_NUM_THREADS="no").stderr.count("RuntimeWarning") == 1


@pytest.mark.parametrize(
    ("groups", "files", "count"),
    [
        ("0::/", {"cpu.max": "200000 100000"}, 2),
        ("0::/", {"cpu.max": "250000 100000"}, 3),
        ("0::/", {"cpu.max": "1000 100000"}, 1),
        ("0::/", {"cpu.max": "max 100000"}, 64),
        ("0::/", {"cpu.max": "9900000 100000"}, 64),
        ("0::/", {"cpu.max": "nonsense"}, 64),
        ("0::/", {"cpu.max": "100000 0"}, 64),
        ("0::/", {}, 64),
        ("0::/a/b", {"a/b/cpu.max": "500000 100000"}, 5),
        ("0::/a/b", {"a/b/cpu.max": "max 100000", "a/cpu.max": "300000 100000"}, 3),
        ("0::/a/b", {"a/b/cpu.max": "500000 100000", "cpu.max": "400000 100000"}, 4),
        ("0::/a/b", {"a/c/cpu.max": "100000 100000"}, 64),
        ("0::/../../b", {"cpu.max": "600000 100000"}, 6),
        ("0::/a:b", {"a:b/cpu.max": "700000 100000"}, 7),
        ("4:cpu,cpuacct:/a", {"cpu/a/cpu.cfs_quota_us": "350000", "cpu/a/cpu.cfs_period_us": "50000"}, 7),
        ("4:cpuacct,cpu:/a", {"cpu/cpu.cfs_quota_us": "200000", "cpu/cpu.cfs_period_us": "100000"}, 2),
        ("4:cpu:/", {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, 64),
        ("4:cpuset:/\n0::/", {"cpu/cpu.cfs_quota_us": "200000", "cpu/cpu.cfs_period_us": "100000"}, 64),
        ("9:name=systemd:/\n1:cpu:/\n0::/", {"cpu/cpu.cfs_quota_us": "3", "cpu/cpu.cfs_period_us": "2"}, 2),
        ("", {"cpu.max": "200000 100000"}, 64),
        (None, {"cpu.max": "200000 100000"}, 64),
    ],
)
def test_the_quota_of_a_container(groups, files, count, tmp_path, monkeypatch):
    own = tmp_path / "proc-self-cgroup"
    if groups is not None:
        own.write_text(groups + "\n" if groups else "")
    for name, text in files.items():
        path = tmp_path / "cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    monkeypatch.setattr(threads, "_CGROUPS_OF_PROCESS", own)
    monkeypatch.setattr(threads, "_CGROUPS", tmp_path / "cgroup")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)), raising=False)
    for name in threads._VARIABLES:
        monkeypatch.delenv(name, raising=False)
    assert threads.n_threads.__wrapped__() == count


def test_where_there_is_no_affinity_all_cpus_count(monkeypatch, tmp_path):
    monkeypatch.setattr(threads, "_CGROUPS_OF_PROCESS", tmp_path / "none")
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    for cpus, count in [(5, 5), (None, 1)]:
        monkeypatch.setattr(os, "cpu_count", lambda cpus=cpus: cpus)
        assert threads._n_cpus() == count


# --- compiled by many processes at the same moment

KERNEL = """
import numpy as np
from softargmax.kernels._compile import kernel

@kernel
def decayed(x, out):
    s = x[0] * 0
    for i in range(len(x)):
        s = s / 3 + x[i]
        out[i] = s
"""


COMPILE = """
import sys, numpy as np
import numba.core.caching as caching
if sys.argv[2] == "unwritable":  # root may write to every other place that Numba tries after NUMBA_CACHE_DIR
    def refuse(self):
        raise OSError("read-only")
    caching._CacheLocator.ensure_cache_path = refuse
from decaying import decayed
print("ready", flush=True)
sys.stdin.readline()
x = np.random.default_rng(0).standard_normal(1000).astype(sys.argv[1])
out = np.empty_like(x)
decayed(x, out)
print(out.tobytes().hex())
"""


def compiled_at_once(dtypes, folders, cache, path):
    """What each process shows; all are let go when the last has imported Numba."""
    path = os.pathsep.join(filter(None, [str(path), os.environ.get("PYTHONPATH")]))
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", COMPILE, dtype, cache],
            env=os.environ | {"NUMBA_CACHE_DIR": str(folder), "PYTHONPATH": path},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for dtype, folder in zip(dtypes, folders, strict=True)
    ]
    try:
        for process in processes:
            assert process.stdout.readline() == "ready\n", process.stderr.read()
        for process in processes:
            process.stdin.write("go\n")
            process.stdin.flush()
        results = [process.communicate(timeout=HANG) for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0] * len(processes), results
    assert {stderr for _, stderr in results} == {""}
    return [stdout for stdout, _ in results]


@pytest.mark.parametrize("cache", ["shared", "unwritable", "one each"])
def test_eight_processes_compile_at_the_same_moment(cache, tmp_path):
    (tmp_path / "decaying.py").write_text(KERNEL)
    folders = {"shared": [tmp_path / "cache"] * 8, "unwritable": ["/proc/nowhere"] * 8}.get(
        cache, [tmp_path / f"cache{i}" for i in range(8)]
    )
    # half for float32, half for float64, so that files of two signatures meet in the folder
    dtypes = ["f4", "f8"] * 4
    shown = set(zip(dtypes, compiled_at_once(dtypes, folders, cache, tmp_path), strict=True))
    assert len(shown) == 2
    for dtype, stdout in shown:
        x = np.random.default_rng(0).standard_normal(1000).astype(dtype)
        out = np.frombuffer(bytes.fromhex(stdout), dtype)
        decayed = np.convolve(x.astype(float), 3.0 ** -np.arange(60))[:1000]
        np.testing.assert_allclose(out, decayed, rtol=0, atol=20 * np.finfo(dtype).eps)
    files = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.nbc")}
    assert len(files) == {"shared": 2, "unwritable": 0, "one each": 8}[cache]
    if cache == "shared":  # what they left is what each signature wants
        assert set(zip(dtypes[:2], compiled_at_once(dtypes[:2], folders[:2], cache, tmp_path), strict=True)) == shown
        assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.nbc")} == files
