"""Run by Debian's Python: real cloud-init finds and calls the module and the part handler of the package.

`loading.py FILES ROOT`: FILES is packaging/cloud-init, ROOT the directory that they write to. Prints the result as JSON.
"""

from __future__ import annotations

import importlib
import json
import sys
import types
from email.mime.multipart import MIMEMultipart
from email.mime.text import MIMEText
from importlib.machinery import SourceFileLoader
from pathlib import Path
from typing import Any

CLOUD_CONFIG = "#cloud-config\nhostname: web-1\n"
PART = '[facts]\nrack = "r1"\n'


def main() -> None:
    files, root = Path(sys.argv[1]), Path(sys.argv[2])
    sys.path.insert(0, str(files))
    modules: Any = importlib.import_module("cloudinit.config.modules")
    stages: Any = importlib.import_module("cloudinit.stages")
    none: Any = importlib.import_module("cloudinit.sources.DataSourceNone")
    module: Any = importlib.import_module("cc_parbake")
    module.TARGET = str(root / "conf.d/50-cloud-init.toml")
    init = stages.Init()
    paths = {"cloud_dir": str(root / "cloud"), "run_dir": str(root / "run")}
    init._cfg = {"system_info": {"distro": "debian", "paths": paths}}
    init.datasource = none.DataSourceNone({}, init.distro, init.paths)
    # This gives the paths the instance's directory.
    init.paths.datasource = init.datasource
    running = modules.Modules(init)
    enable: Any = types.ModuleType("enable")
    SourceFileLoader("enable", str(files / "enable-module")).exec_module(enable)
    entry = enable.ENTRY
    running._cached_cfg = {"cloud_init_modules": [entry], "parbake": {"facts": {"role": "web"}}}
    ran, failures = running.run_section("cloud_init_modules")
    consume(files, root, init)
    written = {path.name: path.read_text() for path in sorted((root / "conf.d").iterdir())}
    schema: Any = importlib.import_module("cloudinit.config.schema")
    # Raises for anything that a boot would warn of.
    schema.validate_cloudconfig_schema({"cloud_init_modules": ["write-files", entry]}, schema.get_schema(), strict=True)
    print(json.dumps({"ran": ran, "failures": [str(failure) for failure in failures], "written": written}))


def consume(files: Path, root: Path, init: Any) -> None:
    """Pass user-data of two parts, the second for parbake, through cloud-init's handlers."""
    handlers = Path(init.paths.get_cpath("handlers"))
    handlers.mkdir(parents=True)
    text = (files / "parbake_part.py").read_text().replace("/run/parbake/conf.d", str(root / "conf.d"))
    (handlers / "parbake_part.py").write_text(text)
    message = MIMEMultipart()
    for body, kind, name in ((CLOUD_CONFIG, "cloud-config", "a.yaml"), (PART, "x-parbake", "site.toml")):
        part = MIMEText(body, kind)
        part.add_header("Content-Disposition", "attachment", filename=name)
        message.attach(part)
    processor: Any = importlib.import_module("cloudinit.user_data").UserDataProcessor(init.paths)
    init._do_handlers(processor.process(message.as_string()), [], "always")


if __name__ == "__main__":
    main()
