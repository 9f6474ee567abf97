import pkgutil
import subprocess
import sys

import slimdiff_fx


def python(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


def test_every_public_name_is_there():
    for name in slimdiff_fx.__all__:
        assert getattr(slimdiff_fx, name) is not None
    assert set(slimdiff_fx.__all__) == set(dir(slimdiff_fx))


def test_no_file_has_the_name_of_something_public():
    """Importing it would hide the function of that name."""
    (folder,) = slimdiff_fx.__path__
    assert not {part.name for part in pkgutil.iter_modules([folder])} & set(slimdiff_fx.__all__)


def test_importing_the_package_imports_nothing_heavy():
    done = python("import slimdiff_fx, sys; assert not {'torch', 'diffusers', 'rich'} & set(sys.modules)")
    assert done.returncode == 0, done.stderr


def test_torch_registers_the_package_for_diffusers():
    done = python("import torch, sys; assert 'slimdiff_fx' in sys.modules; assert 'diffusers' not in sys.modules")
    assert done.returncode == 0, done.stderr


def command_line(*arguments):
    """Run the command line, and refuse it torch: help and usage errors must come at once."""
    code = f"import sys; sys.modules['torch'] = None; sys.argv = ['slimdiff-fx', *{arguments!r}]"
    return python(f"{code}; from slimdiff_fx.cli import main; main()")


def test_help_needs_no_torch_and_names_every_command_and_option():
    done = command_line("--help")
    assert done.returncode == 0, done.stderr
    for command in ("slim", "inspect", "calibrate", "plan", "apply", "export"):
        assert command in done.stdout
    done = command_line("slim", "--help")
    for option in ("--tau", "--keep-params", "--keep-macs", "--prompts", "--images", "--samples", "--resume"):
        assert option in done.stdout


def test_usage_errors_of_the_command_line_exit_with_2():
    done = command_line("slim", "emoji")
    assert done.returncode == 2
    assert "--out" in done.stderr
    assert command_line("slim", "emoji", "-o", "x", "--method", "magic").returncode == 2


def test_package_runs_as_a_module():
    done = subprocess.run([sys.executable, "-m", "slimdiff_fx", "--help"], capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert "Usage: " in done.stdout
