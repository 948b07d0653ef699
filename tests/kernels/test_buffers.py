import gc
import itertools
import os
import pickle
import random
import subprocess
import sys
import textwrap
import threading
import weakref
from collections import deque

import numpy as np
import pytest

from softargmax.kernels import buffers

MB = 2**20
F32 = np.dtype(np.float32)


@pytest.fixture(autouse=True)
def from_1_mib(monkeypatch):
    """Smaller than the 32 MiB that it pays from, so that the tests are quick."""
    monkeypatch.setattr(buffers, "_SMALLEST", MB)


@pytest.fixture
def store(monkeypatch):
    """A store of its own for each test, small enough that blocks are dropped all the time."""
    store = buffers._Store(8 * MB)
    monkeypatch.setattr(buffers, "_store", store)
    return store


@pytest.fixture
def whole_store(store):
    store.kept = buffers._KEPT
    return store


def kept(store):
    return sum(block.size for block in store.free)


class Subclass(np.ndarray):
    pass


class Holder:
    """Unreachable except through itself."""

    def __init__(self, held):
        self.held = held
        self.itself = self


WAYS = {  # an array -> something else that needs the same memory
    "itself": lambda a: a,
    "slice": lambda a: a[len(a) // 2 :],
    "steps": lambda a: a[::3],
    "backwards": lambda a: a[::-1],
    "reshape": lambda a: a.reshape(-1),
    "transpose": lambda a: a.T,
    "new axis": lambda a: a[None],
    "subclass": lambda a: a.view(Subclass),
    "asarray": np.asarray,
    "memoryview": memoryview,
    "array of a memoryview": lambda a: np.asarray(memoryview(a)),
    "pickle buffer": lambda a: np.frombuffer(pickle.PickleBuffer(np.ascontiguousarray(a)).raw(), a.dtype),
    "flat iterator": lambda a: a.flat,
    "DLPack": np.from_dlpack,
}


def torch_ways():
    torch = pytest.importorskip("torch", reason="torch is not installed")
    return {
        "from_numpy": lambda a: torch.from_numpy(a),
        "part of a tensor": lambda a: torch.from_numpy(a)[1:],
        "from_dlpack": lambda a: torch.from_dlpack(a),
    }


def random_program(empty, seed, steps, ways=WAYS, numbers=None, exchange=None):
    """Arrays and views of them, kept and dropped in random order: after every step each holds its own number still.

    A second use of memory that something living needs would have overwritten a number. Through `exchange`, programs
    that run at once drop each other's arrays.
    """
    rng = random.Random(seed)
    numbers = itertools.count(1) if numbers is None else numbers
    living = []
    for _ in range(steps):
        action = rng.choice(["new", "new", "way", "way", "drop", "drop", "garbage", "exchange"])
        if action == "new":
            number = next(numbers)
            dtype = rng.choice([np.dtype(np.float32), np.dtype(np.float64)])
            array = empty((rng.randint(1024, 1600), 1024 // dtype.itemsize), dtype)
            array.fill(number)
            living.append((array, number))
            del array
        elif living and action == "way":
            held, number = rng.choice(living)
            array = np.asarray(held)
            if array.strides and min(array.strides) < 0:  # neither torch nor DLPack takes them
                array = array[::-1]
            living.append((rng.choice(list(ways.values()))(array), number))
            del held, array
        elif living and action in ("drop", "garbage"):
            held = living.pop(rng.randrange(len(living)))
            if action == "garbage":
                Holder(held)
                if rng.random() < 0.3:
                    gc.collect()
            del held
        elif living and exchange is not None and action == "exchange":
            exchange.append(living.pop(rng.randrange(len(living))))
            living.append(exchange.popleft())
        while len(living) > 12:
            living.pop(rng.randrange(len(living)))
        for held, number in living:
            values = np.asarray(held)
            assert np.all(values == number), f"{number} was overwritten"
            del held, values


@pytest.mark.parametrize("seed", range(4))
def test_no_living_array_is_overwritten(store, seed):
    random_program(buffers.empty, seed, 300)
    gc.collect()
    assert 0 < kept(store) <= store.kept


def test_no_living_tensor_is_overwritten(store):
    random_program(buffers.empty, 0, 200, torch_ways())
    random_program(buffers.empty, 1, 200, WAYS | torch_ways())


def test_the_program_rejects_memory_given_back_with_the_array_while_a_view_lives(store):
    def empty(shape, dtype):
        block = store.take(2 * MB)
        array = np.ndarray(shape, dtype, block.memory)
        weakref.finalize(array, store.give, block)
        return array

    with pytest.raises(AssertionError, match="was overwritten"):
        random_program(empty, 0, 300)


def test_the_program_rejects_a_block_handed_out_twice(store, monkeypatch):
    monkeypatch.setattr(store, "_remove", store.free.__contains__)
    monkeypatch.setattr(store, "kept", 100 * MB)
    with pytest.raises(AssertionError, match="was overwritten"):
        random_program(buffers.empty, 0, 300)


@pytest.fixture
def restless():
    """Threads change, and the collector runs, as often as they can."""
    interval, threshold = sys.getswitchinterval(), gc.get_threshold()
    sys.setswitchinterval(1e-6)
    gc.set_threshold(5)
    yield
    sys.setswitchinterval(interval)
    gc.set_threshold(*threshold)


def test_no_living_array_is_overwritten_with_eight_threads(store, restless):
    exchange, numbers, errors = deque(), itertools.count(1), []

    def run(seed):
        try:
            random_program(buffers.empty, seed, 40, WAYS, numbers, exchange)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    exchange.clear()
    gc.collect()
    assert 0 < kept(store) <= store.kept


def test_eight_threads_that_only_take_and_drop_never_share(store, restless):
    in_use, errors = set(), []

    def run(seed):
        rng = random.Random(seed)
        for _ in range(500):
            array = buffers.empty((rng.randint(MB, 5 * MB),), np.dtype(np.uint8))
            address = array.ctypes.data
            if address in in_use:
                errors.append(address)
            in_use.add(address)
            in_use.remove(address)
            del array

    threads = [threading.Thread(target=run, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert 0 < kept(store) <= store.kept


def each_line(do):
    """Calls `do` before each line of buffers.py that runs."""

    def trace(frame, event, argument):
        if frame.f_code.co_filename != buffers.__file__:
            return None
        if event == "line":
            do()
        return trace

    return trace


def test_results_made_and_dropped_between_any_two_lines(store):
    rng, living, count = random.Random(0), [], itertools.count(1)

    def make_and_drop():
        if rng.random() < 0.5:
            number = next(count)
            living.append((buffers.empty((MB // 4 + rng.randint(0, 1000),), F32), number))
            living[-1][0].fill(number)
        else:
            random.Random(rng.random()).shuffle(living)
            del living[rng.randint(2, 6) :]

    sys.settrace(each_line(make_and_drop))
    try:
        for _ in range(100):
            make_and_drop()
    finally:
        sys.settrace(None)
    assert next(count) > 500
    assert all(np.all(array == number) for array, number in living)
    living.clear()
    assert 0 < kept(store) <= store.kept


def test_an_interruption_at_any_line_loses_a_block_at_most(store, monkeypatch):
    monkeypatch.setattr(sys, "unraisablehook", lambda _: None)  # what Python does with Ctrl-C inside `__del__`
    interrupted = 0
    for last in range(1, 60):
        lines = itertools.count(1)

        def interrupt(lines=lines, last=last):
            if next(lines) == last:
                raise KeyboardInterrupt

        sys.settrace(each_line(interrupt))
        try:
            for _ in range(2):
                buffers.empty((MB,), F32)
        except KeyboardInterrupt:
            interrupted += 1
        finally:
            sys.settrace(None)
        random_program(buffers.empty, last, 6)
        assert kept(store) <= store.kept
        assert len(set(store.free)) == len(store.free)
    assert interrupted > 10


def test_an_array_rescued_from_the_collector_keeps_its_memory(store):
    class Rescuer(Holder):
        def __del__(self):
            rescued.append(self.held)

    rescued = []
    array = buffers.empty((MB,), F32)
    array.fill(1)
    lease = array.base.base
    Rescuer([array.view(Subclass), lease])
    Rescuer([lease])
    del array, lease
    gc.collect()
    assert len(rescued) == 2
    later = [buffers.empty((MB,), F32) for _ in range(4)]
    for other in later:
        other.fill(2)
    assert all(np.all(held[0] == 1) for held in rescued if len(held) == 2)


def test_no_array_is_made_from_a_lease_that_ended(store):
    class Rescuer(Holder):
        def __del__(self):
            rescued.append(self.held)

    rescued = []
    Rescuer(buffers.empty((MB,), F32).base.base)
    gc.collect()
    assert len(store.free) == 1
    assert np.asarray(rescued[0]).dtype == object


@pytest.mark.parametrize("size", [MB, 3 * MB + 20, 100 * MB, 256 * MB])
def test_memory_is_used_again_when_the_last_view_goes(whole_store, size):
    array = buffers.empty((size,), np.dtype(np.uint8))
    address = array.ctypes.data
    view = array[100:]
    del array
    assert len(whole_store.free) == 0
    del view
    assert kept(whole_store) >= size
    assert buffers.empty((size // 4, 4), np.dtype(np.int8)).ctypes.data == address


@pytest.mark.parametrize(
    ("free", "wanted", "fits"), [(10, 10, True), (10, 8, True), (10, 7, False), (10, 11, False), (2, 1, False)]
)
def test_a_block_fits_a_request_up_to_a_quarter_smaller(whole_store, free, wanted, fits):
    address = buffers.empty((free * MB,), np.dtype(np.uint8)).ctypes.data
    array = buffers.empty((wanted * MB,), np.dtype(np.uint8))
    assert (len(whole_store.free) == 0) == fits
    assert (array.ctypes.data == address) == fits


def test_at_most_256_mb_are_kept_and_the_oldest_go_first(whole_store):
    arrays = [buffers.empty((n * MB,), np.dtype(np.uint8)) for n in (90, 100, 110, 257)]
    assert kept(whole_store) == 0
    for _ in range(4):
        del arrays[0]
        assert kept(whole_store) <= 256 * MB
    assert [block.size // MB for block in whole_store.free] == [100, 110]


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "bfloat16"])
@pytest.mark.parametrize("shape", [(1024, 1024), (3, 5, 99991), (2**20 + 1,), (1, 2**20)])
def test_arrays_are_as_from_numpy(store, shape, dtype):
    if dtype == "bfloat16":
        dtype = pytest.importorskip("ml_dtypes").bfloat16
    dtype = np.dtype(dtype)
    for _ in range(2):  # new memory, then the same again
        array = buffers.empty(shape, dtype)
        assert type(array) is np.ndarray
        assert (array.shape, array.dtype) == (shape, dtype)
        assert array.strides == np.empty(shape, dtype).strides
        assert array.flags.c_contiguous
        assert array.flags.writeable
        assert array.flags.aligned
        assert array.ctypes.data % 64 == 0
        array[...] = 3
        array.reshape(-1)[-1] = 5
        assert np.count_nonzero(array == dtype.type(3)) == array.size - 1
        array = None


@pytest.mark.parametrize("shape", [(), (0,), (0, 5), (3, 0, 2**30), (1,), (MB // 4 - 1,)])
def test_small_arrays_are_numpys_own(store, shape):
    array = buffers.empty(shape, F32)
    assert (array.shape, array.dtype, array.base) == (shape, F32, None)


@pytest.mark.parametrize("shape", [(MB // 4,), (MB // 4 + 1,), (MB // 4 + 2**14 - 1,), (MB // 4 + 2**14,)])
def test_data_lie_inside_their_block(store, shape):
    array = buffers.empty(shape, F32)
    block = array.base.base._block
    begin = block.memory.ctypes.data
    assert begin <= array.ctypes.data
    assert array.ctypes.data + array.nbytes <= begin + block.memory.nbytes


def test_references_to_objects_are_never_made_of_old_bytes(store):
    buffers.empty((MB,), F32).fill(1)
    array = buffers.empty((MB,), np.dtype(object))
    assert array[0] is None
    assert array[-1] is None


def test_wrong_shapes_are_numpys_error(store):
    with pytest.raises(ValueError, match="negative dimensions"):
        buffers.empty((-1024, -1024), F32)
    with pytest.raises(ValueError, match="negative dimensions"):
        buffers.empty((-1, 2**30), F32)


def test_resize_refuses_and_copies_are_free(store):
    array = buffers.empty((MB,), F32)
    array.fill(7)
    with pytest.raises(ValueError, match="does not own its data"):
        array.resize((2 * MB,))
    copy, pickled = array.copy(), pickle.loads(pickle.dumps(array))
    array.fill(8)
    assert np.all(copy == 7)
    assert np.all(pickled == 7)


def run_python(program):
    # from Python 3.12 on a fork beside NumPy's own threads is warned of
    command = [sys.executable, "-W", "ignore:This process:DeprecationWarning", "-c", textwrap.dedent(program)]
    result = subprocess.run(command, capture_output=True, text=True)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_forked_child_and_its_parent_do_not_disturb_each_other():
    run_python("""
        import os, time
        import numpy as np
        from softargmax.kernels import buffers

        F32 = np.dtype(np.float32)
        held = buffers.empty((2**23,), F32)
        held.fill(1)
        buffers.empty((2**23,), F32).fill(2)
        free = len(buffers._store.free)
        child = os.fork()
        number = 3 if child else 4
        for _ in range(100):  # both write into what was free, and drop it
            array = buffers.empty((2**23,), F32)
            array.fill(number)
            time.sleep(0.001)
            assert np.all(array == number) and np.all(held == 1)
            del array
        assert len(buffers._store.free) == free == 1
        held.fill(number)
        time.sleep(0.05)
        assert np.all(held == number)
        if child:
            assert os.waitpid(child, 0)[1] == 0
    """)


def test_the_interpreter_ends_in_silence_with_arrays_alive():
    run_python("""
        import atexit, builtins, sys, threading, time
        import numpy as np
        from softargmax.kernels import buffers

        new = lambda: buffers.empty((2**23,), np.dtype(np.float32))
        sys.the_module, sys.the_class = buffers, buffers._Lease
        array, view = new(), new()[5:].T
        sys.array, builtins.array, buffers.array, np.array_of_ours = new(), memoryview(new()), new(), new()
        _private = [new()]
        _private.append(_private)
        atexit.register(lambda a: a.fill(1), new())
        new.itself, new.array = new, new()

        def restless():
            while True:
                new()

        threading.Thread(target=restless, daemon=True).start()
        time.sleep(0.01)
    """)
