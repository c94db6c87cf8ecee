"""SYSTEM.toml: read when right, one sentence per mistake with table and key when not."""

from __future__ import annotations

from pathlib import Path

import pytest

from gunyah.host.disk import FileStorage
from gunyah.host.errors import HostError
from gunyah.host.sizes import format_size, parse_size
from gunyah.host.system_file import check_system_file, read_system_file
from gunyah.host.vms import settings_of
from gunyah.vmm.vm_config import Doorbell, QueuePair


@pytest.fixture
def write(tmp_path: Path):
    (tmp_path / "guest.bin").write_bytes(b"\x14" * 64)

    def write(content: str) -> Path:
        path = tmp_path / "system.toml"
        path.write_text(content)
        return path

    return write


def said(path: Path) -> list[str]:
    return [str(finding) for finding in check_system_file(path)]


def test_an_empty_file_is_a_system_with_a_python_primary(write) -> None:
    system = read_system_file(write(""))
    assert (system.primary.kind, system.clock, system.vms) == ("python", "real", ())


def test_every_key_is_read(write, tmp_path: Path) -> None:
    system = read_system_file(
        write(
            'seed = 7\nclock = "virtual"\nmemory = "2G"\ncores = 4\n'
            '[primary]\nprofile = "v4"\nmemory = "512M"\n'
            '[vm.one]\nimage = "guest.bin"\nmemory = 0x1000000\nprofile = "v4"\npeers = ["two"]\nstart = false\n'
            '[vm.two]\nimage = "guest.bin"\n'
        )
    )
    assert (system.seed, system.clock, system.memory, system.cores) == (7, "virtual", 2 << 30, 4)
    assert (system.primary.profile, system.primary.memory) == ("v4", 512 << 20)
    one, two = system.vms
    assert (one.name, one.memory, one.profile, one.peers, one.start) == ("one", 16 << 20, "v4", ("two",), False)
    assert one.image == tmp_path / "guest.bin"
    assert (two.memory, two.start) == (256 << 20, True)
    assert (two.console, two.restart, two.share) == ("uart", "reset", False)


def test_a_native_primary_vm_and_everything_a_secondary_vm_can_have_are_read(write) -> None:
    native = read_system_file(write('[primary]\nkind = "native"\nimage = "guest.bin"\nvcpus = 2\ncmdline = "quiet"\n'))
    assert (native.primary.vcpus, native.primary.cmdline) == (2, "quiet")
    system = read_system_file(
        write(
            'until = "vms"\n[vm.a]\nimage = "guest.bin"\nconsole = "rm"\naffinity = "static"\nshare = true\n'
            'restart = "always"\nshared = {7 = "16K"}\ndoorbells = [3]\ndoorbell_sources = [4]\nqueues = [5]\n'
        )
    )
    (vm,) = system.vms
    assert (vm.console, vm.affinity, vm.share, vm.restart) == ("rm", "static", True, "always")
    assert (vm.shared, vm.doorbells, vm.doorbell_sources, vm.queues) == ({"7": 0x4000}, (3,), (4,), (5,))


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("color = 1", "system.toml: color: is not a known key; known are seed, clock, memory, cores, until, primary"),
        ('clock = "sun"', "system.toml: clock: 'sun' is not one of 'real', 'virtual'"),
        ("seed = -1", "system.toml: seed: -1 is not in 0.."),
        ('memory = "12Q"', "system.toml: memory: '12Q' is not a size such as 256M"),
        ("memory = 4097", "system.toml: memory: 4097 is not at least 1M and a multiple of 4K"),
        ("memory = 1.5", "system.toml: memory: 1.5 is not a size such as '256M'"),
        ("cores = true", "system.toml: cores: True is not an integer"),
        ("primary = 3", "primary: 3 is not a table"),
        ('[primary]\nkind = "native"', "primary: image: is missing; a native VM needs one"),
        ("[primary]\nvcpus = 2", 'primary: vcpus: is for a native VM; this one is kind = "python"'),
        ("vm = 1", "vm: 1 is not a table of VMs, [vm.NAME]"),
        ("[vm.a]", "vm.a: image: is missing"),
        ('[vm.a]\nimage = "absent"', "absent does not exist"),
        ('[vm.a]\nimage = "."', " is not a file"),
        ('[vm.a]\nimage = "guest.bin"\nvcpus = 9', "vm.a: vcpus: 9 is not in 1..8"),
        ('[vm.a]\nimage = "guest.bin"\nprofile = "v5"', "vm.a: profile: 'v5' is not one of"),
        ('[vm.a]\nimage = "guest.bin"\npeers = ["b"]', "vm.a: peers: 'b' is not another VM of this file"),
        ('[vm.a]\nimage = "guest.bin"\npeers = "b"', "vm.a: peers: 'b' is not a list of names"),
        ('[vm.a]\nimage = "guest.bin"\nstart = 1', "vm.a: start: 1 is not true or false"),
        ('[vm.a]\nimage = "guest.bin"\naffinity = "static"', "vm.a: affinity: a UART is emulated by the primary VM"),
        ('[vm.a]\nimage = "guest.bin"\ndoorbells = [1]', "vm.a: doorbells: label 1 is the interrupt of the VM's UART"),
        ('[vm.a]\nimage = "guest.bin"\nqueues = [0]', "vm.a: queues: [0] is not a list of labels"),
        ('[vm.a]\nimage = "guest.bin"\nqueues = [2, 2]', "vm.a: queues: [2, 2] names a label twice"),
        ('[vm.a]\nimage = "guest.bin"\nshared = {1 = 5}', "vm.a: shared: 1 = 5 is not a multiple of 4K"),
        ('[vm.a]\nimage = "guest.bin"\nshared = {x = 5}', "vm.a: shared: 'x' is not a label"),
        ('until = "vms"', "system.toml: until: 'vms' waits for VMs that end, and none is started"),
        (
            'memory = "4G"\n[vm.a]\nimage = "guest.bin"\nmemory = "1G"',
            "system.toml: memory: the VMs want 1280M together, the board has 1024M",
        ),
        (
            '[primary]\nkind = "native"\nimage = "guest.bin"\n[vm.a]\nimage = "guest.bin"',
            "vm: a: is for a Python primary VM",
        ),
        ('memory = "64M"\n[vm.a]\nimage = "guest.bin"', "system.toml: memory: the VMs want 512M together"),
    ],
)
def test_a_mistake_is_one_sentence_with_its_place(write, content: str, sentence: str) -> None:
    findings = said(write(content))
    assert len(findings) == 1
    assert sentence in findings[0]


def test_all_mistakes_are_listed_and_reading_says_how_many(write) -> None:
    path = write('color = 1\nseed = "x"\n[vm.a]\n')
    assert len(said(path)) == 3
    with pytest.raises(HostError, match=r"system.toml: color: is not a known key.* \(and 2 more, see gunyah lint\)"):
        read_system_file(path)


@pytest.mark.parametrize("content", ["seed = ", "\x00", "[vm.a]\n[vm.a]\n"])
def test_what_is_not_toml_is_one_sentence(write, content: str) -> None:
    with pytest.raises(HostError, match=r"system\.toml is not TOML: "):
        check_system_file(write(content))


def test_an_absent_file_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(HostError, match=r"absent.toml cannot be read: No such file or directory"):
        check_system_file(tmp_path / "absent.toml")


@pytest.mark.parametrize(
    ("words", "size"),
    [("0", 0), ("0x1000", 4096), ("4k", 4096), ("256M", 256 << 20), ("1GiB", 1 << 30), ("2MB", 2 << 20)],
)
def test_sizes(words: str, size: int) -> None:
    assert parse_size(words) == size
    assert parse_size(format_size(size)) == size


@pytest.mark.parametrize("words", ["", "M", "-1M", "1.5G", "12Q", "256 M", "0x"])
def test_what_is_no_size_is_one_sentence(words: str) -> None:
    with pytest.raises(HostError, match="is not a size such as 256M"):
        parse_size(words)


LINKED = (
    '[vm.a]\nimage = "guest.bin"\nmemory = "64M"\n'
    '[vm.b]\nimage = "guest.bin"\nmemory = "64M"\n'
    '[vm.c]\nimage = "guest.bin"\nmemory = "64M"\n'
    '[link.q]\nkind = "queue"\nvms = ["a", "b"]\nlabel = 9\nmessage_size = 64\ndepth = 4\n'
    '[link.bell]\nkind = "doorbell"\nvms = ["b", "a"]\nlabel = 5\n'
    '[link.ring]\nkind = "memory"\nvms = ["a", "b", "c"]\nsize = "64K"\nlabel = 7\n'
)


def test_links_give_every_vm_its_end(write) -> None:
    system = read_system_file(write(LINKED))
    a, b, c = (settings_of(vm, system) for vm in system.vms)
    assert a.queues == (QueuePair(9, "b", 64, 4),) and b.queues == (QueuePair(9, "a", 64, 4),)
    assert a.doorbells == (Doorbell(5, "b"),) and b.doorbell_sources == (Doorbell(5, "a"),)
    assert [vm.shared[0].peers for vm in (a, b, c)] == [("b", "c"), ("a", "c"), ("a", "b")]
    assert not c.queues and not c.doorbells and not c.doorbell_sources


@pytest.mark.parametrize(
    ("link", "sentence"),
    [
        ('kind = "queue"', "link.x: vms: is missing"),
        ('vms = ["a", "b"]', "link.x: kind: is missing"),
        ('kind = "memory"\nvms = ["a", "b"]', "link.x: size: is missing"),
        ('kind = "queue"\nvms = ["a", "b"]\nsize = "4K"', 'link.x: size: is for kind = "memory"'),
        ('kind = "queue"\nvms = ["a", "z"]', "link.x: vms: 'z' is not a VM of this file"),
        ('kind = "queue"\nvms = ["a", "b", "c"]', "link.x: vms: ['a', 'b', 'c'] are not two VMs"),
        ('kind = "memory"\nsize = 4096\nvms = ["a"]', "link.x: vms: ['a'] are not at least two VMs"),
        ('kind = "doorbell"\nvms = ["a", "a"]', "link.x: vms: ['a', 'a'] are not two VMs"),
        ('kind = "queue"\nvms = ["c", "b"]\nlabel = 9', "link.x: label: 9 is the label of link.q too"),
        ('kind = "wire"\nvms = ["c", "b"]', "link.x: kind: 'wire' is not one of 'queue', 'doorbell', 'memory'"),
    ],
)
def test_a_wrong_link_is_one_sentence(write, link: str, sentence: str) -> None:
    assert sentence in said(write(f"{LINKED}[link.x]\n{link}\n"))


def test_shared_memory_counts_too(write) -> None:
    content = '[primary]\nmemory = "900M"\n[vm.a]\nimage = "guest.bin"\nmemory = "100M"\nshared = {7 = "32M"}\n'
    assert any("the VMs want 1032M together, the machine has 1024M" in sentence for sentence in said(write(content)))


def test_labels_that_a_vm_has_twice_are_told(write) -> None:
    content = LINKED.replace("[vm.b]\n", "[vm.b]\nqueues = [9]\n")
    assert any("label 9 stands for two message queues" in sentence for sentence in said(write(content)))


def test_a_system_with_vms_of_the_hypervisor_has_a_core_for_them(write) -> None:
    one = read_system_file(write('[vm.a]\nimage = "guest.bin"\n'))
    two = read_system_file(write('[vm.a]\nimage = "guest.bin"\nconsole = "rm"\n'))
    named = read_system_file(write('cores = 4\n[vm.a]\nimage = "guest.bin"\nconsole = "none"\ncores = [3, 2]\n'))
    assert [system.cores for system in (one, two, named)] == [1, 2, 4]
    assert settings_of(two.vms[0], two).cores == (1,)
    assert settings_of(named.vms[0], named).cores == (3, 2)
    assert "vm.a: cores: core 7 is not one of the machine's 2 (cores = ...)" in said(
        write('[vm.a]\nimage = "guest.bin"\nconsole = "rm"\ncores = [7]\n')
    )
    assert "vm.a: cores: is for VMs that the hypervisor schedules; the primary VM runs this one" in said(
        write('[vm.a]\nimage = "guest.bin"\ncores = [0]\n')
    )


def test_disks_are_files_of_whole_sectors_and_need_shared_memory(write, tmp_path: Path) -> None:
    (tmp_path / "disk.img").write_bytes(bytes(1024))
    (tmp_path / "odd.img").write_bytes(bytes(1000))
    vm = '[vm.a]\nimage = "guest.bin"\n'
    system = read_system_file(write(f'{vm}share = true\ndisks = ["disk.img"]\n'))
    assert system.vms[0].disks == (tmp_path / "disk.img",)
    assert len(settings_of(system.vms[0], system).virtio) == 1
    assert any("odd.img has 1000 bytes" in line for line in said(write(f'{vm}share = true\ndisks = ["odd.img"]\n')))
    assert any("none.img does not exist" in line for line in said(write(f'{vm}share = true\ndisks = ["none.img"]\n')))
    assert any("disks: share = true is needed" in line for line in said(write(f'{vm}disks = ["disk.img"]\n')))


def test_a_disk_is_written_in_place_unless_its_file_is_read_only(tmp_path: Path) -> None:
    path = tmp_path / "disk.img"
    path.write_bytes(bytes(1024))
    disk = FileStorage(path)
    disk.write(512, b"there")
    disk.flush()
    assert path.read_bytes()[512:517] == b"there" and disk.read(510, 8) == b"\0\0there\0"
    disk.close()
    disk.close()
    with pytest.raises(HostError, match="no whole number of 512-byte sectors"):
        path.write_bytes(b"")
        FileStorage(path)
    with pytest.raises(HostError, match="cannot be opened"):
        FileStorage(tmp_path / "none")
