import os
import resource
import signal
import stat
import subprocess
import sys
import textwrap

import pytest

from softargmax._files import whole_file, write_whole


def test_the_file_appears_when_the_block_ends(tmp_path):
    target = tmp_path / "a.bin"
    with whole_file(target) as file:
        file.write(b"half")
        assert not target.exists()
    assert target.read_bytes() == b"half"
    assert os.listdir(tmp_path) == ["a.bin"]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_an_error_leaves_what_was_there(error, tmp_path):
    target = tmp_path / "a.bin"
    target.write_bytes(b"old")
    with pytest.raises(error), whole_file(target) as file:  # noqa: PT012
        file.write(b"new")
        raise error
    assert target.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a.bin"]


def test_rights_and_links_are_kept(tmp_path):
    target, link = tmp_path / "a.bin", tmp_path / "link"
    target.write_bytes(b"old")
    target.chmod(0o640)
    link.symlink_to(target)
    write_whole(link, b"new")
    assert link.is_symlink()
    assert target.read_bytes() == b"new"
    assert stat.S_IMODE(target.stat().st_mode) == 0o640
    dangling = tmp_path / "dangling"
    dangling.symlink_to(tmp_path / "later")
    write_whole(dangling, b"x")
    assert (tmp_path / "later").read_bytes() == b"x"


def test_a_name_as_long_as_the_file_system_allows(tmp_path):
    write_whole(tmp_path / ("n" * 255), b"x")
    assert (tmp_path / ("n" * 255)).read_bytes() == b"x"


def test_what_is_no_file_is_refused_and_stays(tmp_path):
    pipe, loop = tmp_path / "pipe", tmp_path / "loop"
    os.mkfifo(pipe)
    loop.symlink_to(loop)
    for path, sentence in (
        (tmp_path, "it is a folder; give the name of a file"),
        (pipe, "it is no regular file"),
        (loop, "cannot write .*loop: "),
        (tmp_path / "none" / "a.bin", "there is no folder .*none"),
        ("/proc/softargmax.json", "cannot write /proc/softargmax.json: its folder takes no files"),
    ):
        with pytest.raises(ValueError, match=sentence):
            write_whole(path, b"x")
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    assert loop.is_symlink()


def test_a_read_only_file_is_not_replaced(tmp_path, monkeypatch):
    target = tmp_path / "a.bin"
    target.write_bytes(b"old")
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may write everything
    with pytest.raises(ValueError, match="it is read-only"):
        write_whole(target, b"new")
    assert target.read_bytes() == b"old"


def test_a_full_disk(tmp_path):
    target = tmp_path / "a.bin"
    target.write_bytes(b"old")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(ValueError, match="cannot write .*a.bin: file too large; nothing was changed there"):
            write_whole(target, b"x" * 100_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert target.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a.bin"]


def test_kill_9_leaves_the_old_file_or_the_new_one(tmp_path):
    target = tmp_path / "a.bin"
    target.write_bytes(b"old" * 1000)
    program = """
        import sys
        from softargmax._files import write_whole
        print("ready", flush=True)
        while True:
            write_whole(sys.argv[1], b"new" * 1000)
    """
    for delay in (0.0, 0.01, 0.03):
        command = [sys.executable, "-c", textwrap.dedent(program), str(target)]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
            process.stdout.readline()
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(delay + 0.01)
            process.send_signal(signal.SIGKILL)
        assert target.read_bytes() in (b"old" * 1000, b"new" * 1000)
