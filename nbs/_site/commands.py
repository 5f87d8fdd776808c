"The command reference as Markdown, made from the parsers that the commands use themselves."
import argparse, configparser, importlib, re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

EXAMPLES = dict(
    coderank_chunk='coderank_chunk my_docs chunks',
    coderank_embed='coderank_embed chunks --out run --profile offline',
    coderank_index='coderank_index run --location index',
    coderank_search="coderank_search 'How do refunds get paid?' --location index --limit 3",
    coderank_evaluate='coderank_evaluate --location index --queries questions.jsonl',
    coderank_compare='coderank_compare --input chunks --out compare --profiles offline,light',
    coderank_mcp='coderank_mcp --location index',
    coderank_kaggle='coderank_kaggle push --owner my-name --corpus my-corpus --wheels')

OPENING = '''# Commands

> Every command with its options, defaults, exit codes and variables of the environment

This page is made from the same parsers that read the command line, so it says what `--help` says. An option can be written with `_` or with `-`: `--dry_run` and `--dry-run` are the same. Text for people goes to stderr; results go to stdout, and `--json` prints one JSON document there and nothing else.

| to do this | use |
|---|---|
'''

CODES = '''## Exit codes

| code | meaning |
|---|---|
| 0 | All went well. Stopping at `--stop_after` is 0 too. |
| 2 | An argument or something in the input is wrong. One line on stderr says what, where, and what to do. |
| 3 | The work is done, and something needs a look: more texts than `--max_bad` got no vector, or `--strict` was given and part of the input was not understood. |
| 130 | Stopped with Ctrl-C. What is done is saved; the same command goes on from there. |
| 143, 129 | The same after SIGTERM and SIGHUP, as sent by `kill` or a closed terminal. |

## Environment variables

| variable | what it does |
|---|---|
| `QDRANT_API_KEY` | The key of a Qdrant server, where `--api_key` is not given |
| `HF_HUB_OFFLINE` | `1`: never ask the Hugging Face hub; models must be on this machine |
| `HF_TOKEN` | Your access token for gated or private models on the hub |
| `HF_HOME`, `HF_HUB_CACHE` | Where downloaded models are kept |
| `CUDA_VISIBLE_DEVICES` | Which GPUs may be used |
| `XDG_CACHE_HOME` | Where measured speeds are kept between runs, in a folder `coderank_qdrant`; `~/.cache` by default |
| `CODERANK_WIDGETS` | `0`: no live display in notebooks, plain lines instead |
| `CODERANK_MCP_TOKEN` | The token for `coderank_mcp --http`, at least 16 characters; without it each start makes a new one |
| `KAGGLE_USERNAME` | Your Kaggle user name, where `--owner` is not given |
| `KAGGLE_KERNEL_RUN_TYPE` | Set by Kaggle itself; that is how the package knows where it runs |
'''

def commands():
    "name: its function, for each command of the package that settings.ini lists."
    settings = configparser.ConfigParser(delimiters='=')
    settings.read(ROOT/'settings.ini', encoding='utf-8')
    listed = dict(line.split('=') for line in settings['DEFAULT']['console_scripts'].split())
    mine = {name: place.split(':') for name,place in listed.items() if name.startswith('coderank_')}
    first = sorted(mine, key=lambda name: list(EXAMPLES).index(name) if name in EXAMPLES else len(EXAMPLES))
    return {name: getattr(importlib.import_module(mine[name][0]), mine[name][1]) for name in first}

def parser_of(function):
    "The parser that the command itself uses."
    from coderank_qdrant.command import option_parser
    return option_parser(getattr(function, '__wrapped__', function))

def arguments(parser):
    "(names, kind of value, default, help) of each argument, except --help and what the library adds for itself."
    for action in parser._actions:
        if action.help == argparse.SUPPRESS or action.dest == 'help': continue
        words = parser._get_formatter()._expand_help(action) if action.help else ''
        words = re.sub(r'\s*\(default: .*\)$', '', words, flags=re.S)
        kind = str(action.metavar or '') if action.nargs != 0 else ''
        default = action.default if action.option_strings and action.default not in (None, argparse.SUPPRESS) else ''
        yield action.option_strings or [action.dest], kind.strip('()'), str(default), words

def row(names, kind, default, words):
    "An argument as a row of a Markdown table."
    shown = ', '.join(f'`{name}`' for name in names)
    value = f'`{default}`' if default else ''
    return f'| {shown} | {kind} | {value} | {words.replace("|", chr(92) + "|")} |'

def section(name, function):
    "A command as Markdown."
    parser = parser_of(function)
    positional = [action.dest for action in parser._actions if not action.option_strings]
    usage = ' '.join([name, *[word.upper() for word in positional], '[OPTIONS]'])
    rows = [row(*argument) for argument in arguments(parser)]
    example = f'Example:\n\n```sh\n{EXAMPLES[name]}\n```' if name in EXAMPLES else ''
    table = '\n'.join(['| argument | value | default | meaning |', '|---|---|---|---|', *rows])
    return f'## {name}\n\n{parser.description.strip()}\n\n```text\n{usage}\n```\n\n{example}\n\n{table}\n'

def commands_page():
    "The whole page."
    found = commands()
    contents = '\n'.join(f'| {parser_of(f).description.strip()} | [`{name}`](#{name}) |' for name,f in found.items())
    return '\n'.join([OPENING + contents + '\n', *[section(name, f) for name,f in found.items()], CODES])
