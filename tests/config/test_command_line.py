import subprocess
import sys

from basicsr.config.command_line import infer_launcher, parse_command_line


def test_arguments_of_old_and_new_launchers(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    for flag in ("--local_rank", "--local-rank"):
        args = parse_command_line("p", "", ["-opt", "x.yml", flag, "0", "--force_yml", "a:b=1", "c=2"])
        assert (args.launcher, args.force_yml) == ("none", ["a:b=1", "c=2"])
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert parse_command_line("p", "", ["-opt", "x.yml"]).launcher == "pytorch"


def test_launcher_is_inferred_from_torchrun():
    assert infer_launcher({"WORLD_SIZE": "2", "LOCAL_RANK": "0"}) == "pytorch"
    assert infer_launcher({"WORLD_SIZE": "2"}) == "none"
    assert infer_launcher({}) == "none"


def test_help_imports_nothing_heavy():
    code = "import sys, basicsr.test\ntry: basicsr.test.main(['--help'])\nexcept SystemExit: print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "--force_yml" in done.stdout
    assert not {"torch", "cv2", "numpy"} & set(done.stdout.split())
