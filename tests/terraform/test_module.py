"""The module's own tests, and its example: with the provider's schemas and without a Vault."""

from pathlib import Path

from tests.terraform.cli import Terraform, copy_of_policies


def test_the_module_passes_its_own_tests(program: str, provider: dict[str, str], tmp_path: Path) -> None:
    terraform = Terraform(program, copy_of_policies(tmp_path) / "terraform", **provider)
    terraform("init", "-no-color")
    assert ", 0 failed." in terraform("test", "-no-color")


def test_module_and_example_are_valid_and_nothing_in_them_is_deprecated(
    program: str, provider: dict[str, str], tmp_path: Path
) -> None:
    module = copy_of_policies(tmp_path) / "terraform"
    for folder in (module, module / "examples" / "complete"):
        terraform = Terraform(program, folder, **provider)
        terraform("init", "-no-color")
        said = terraform("validate", "-no-color")
        assert "Warning" not in said, said
