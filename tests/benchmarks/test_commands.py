"""The command line of all benchmarks: it answers before jax is imported."""

import subprocess
import sys
from types import SimpleNamespace

import pytest
from helpers import ROOT

from benchmarks import commands, machine
from benchmarks.commands import COMMANDS, main, parse


def refusal(arguments, capsys):
    """The error line of a command that ends with exit status 2."""
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


@pytest.fixture
def ran(monkeypatch):
    """Commands are recorded instead of run, and no device is initialized."""
    noted = []

    def module(name):
        return SimpleNamespace(run=lambda options: noted.append((name, options)) or 7)

    monkeypatch.setattr(commands, "import_module", module)
    monkeypatch.setattr(commands, "use_device", lambda device: device or "cpu")
    return noted


def test_help_explains_every_command_without_jax():
    """In a new process: this one has jax, the tables and the figures already."""
    code = (
        "import sys; from benchmarks.commands import main\n"
        "try: main(['--help'])\n"
        "finally: assert not {'jax', 'numpy', 'rich', 'matplotlib'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    words = " ".join(done.stdout.split())
    assert all(f"{name} {command.summary}" in words for name, command in COMMANDS.items())


@pytest.mark.parametrize("name", COMMANDS)
def test_a_commands_help_says_what_it_measures_and_every_option(name, capsys):
    with pytest.raises(SystemExit) as ended:
        main([name, "--help"])
    words = " ".join(capsys.readouterr().out.split())
    assert ended.value.code == 0
    assert f"usage: python -m benchmarks {name} " in words and COMMANDS[name].description in words
    assert all(option in words for option, _ in COMMANDS[name].options)


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_is_run_with_its_options_and_its_exit_status_is_returned(name, ran):
    assert main([name, "--out", "x.json"]) == 7
    ((module, options),) = ran
    assert module == COMMANDS[name].module and str(options.out) == "x.json"


@pytest.mark.parametrize(
    "arguments", [[], ["--quick"], ["--device", "cpu", "--out", "x.json"], ["--out=x.json", "--quick"]]
)
def test_without_a_name_the_command_is_speed(arguments):
    old, new = (vars(parse(a)) for a in (arguments, ["speed", *arguments]))
    assert old | {"parser": None} == new | {"parser": None} and new["command"] == COMMANDS["speed"]


def test_an_error_is_one_line_that_says_what_was_given_and_what_to_use(capsys):
    line = refusal(["growht"], capsys)
    assert "'growht'" in line and "'growth'" in line and line.endswith("see python -m benchmarks --help")
    line = refusal(["network", "--dtype", "float16"], capsys)
    assert "--dtype" in line and "'float16'" in line and "'bfloat16'" in line
    line = refusal(["--quick", "--dtype", "bfloat16"], capsys)
    assert "--dtype bfloat16" in line and line.endswith("see python -m benchmarks speed --help")
    assert main(["correctness", "--rows", "mask_al"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "--rows mask_al:" in line and "mask_all," in line


@pytest.mark.parametrize("name", [[], ["network"], ["laboratory"]])
def test_a_device_that_is_not_there_is_refused(name, capsys):
    assert main([*name, "--device", "gpu"]) == 2
    assert "use --device cpu" in capsys.readouterr().err


def test_the_program_ends_with_the_status_of_its_command():
    def status(*arguments):
        return subprocess.run(
            [sys.executable, "-m", "benchmarks", *arguments], capture_output=True, cwd=ROOT
        ).returncode

    assert (status("folding", "--help"), status("nothing")) == (0, 2)


def test_an_environment_that_the_c_library_reads_needs_a_new_process(monkeypatch):
    started = []
    monkeypatch.setattr(machine.os, "environ", {"XLA_PYTHON_CLIENT_PREALLOCATE": "true", "MALLOC_ARENA_MAX": "4"})
    monkeypatch.setattr(machine.os, "execv", lambda *command: started.append(command))
    monkeypatch.setattr(machine.sys, "platform", "linux")
    monkeypatch.setattr(machine.sys, "argv", ["", "speed", "--quick"])
    machine.set_environment(machine.SHARE_GPU)
    machine.set_environment({"JAX_NUM_CPU_DEVICES": "4"})
    assert not started and machine.os.environ["JAX_NUM_CPU_DEVICES"] == "4"
    for _ in range(2):  # the second time, in the new process
        machine.set_environment(machine.KEEP_FREED_MEMORY)
    assert [arguments[1:] for _, arguments in started] == [["-m", "benchmarks", "speed", "--quick"]]
    assert machine.os.environ["MALLOC_ARENA_MAX"] == "4"  # the user has set it
    assert machine.os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] == "true"
