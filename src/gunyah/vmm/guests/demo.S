// The demonstration guest: finds out that it runs under Gunyah, asks the Resource Manager who it is, sleeps on its
// timer, and powers off. What it prints is read by gunyah.host.demo_guest.

        .include "guest.inc"

        .equ    MILLISECONDS,   10

_start: adr     x1, stack
        mov     sp, x1
        mov     x19, x0                 // device tree

        say     "guest: hello from EL1\n"

        mov64   x0, CALL_UID
        hvc     #0
        mov     w20, w0
        mov     w21, w1
        mov     w22, w2
        mov     w23, w3
        say     "uid: "
        mov     x0, x20
        bl      puthex
        say     " "
        mov     x0, x21
        bl      puthex
        say     " "
        mov     x0, x22
        bl      puthex
        say     " "
        mov     x0, x23
        bl      puthex

        hvc     #HVC_IDENTIFY
        mov     x20, x0
        mov     x21, x1
        say     "\napi: "
        mov     x0, x20
        bl      puthex
        say     "\nfeatures: "
        mov     x0, x21
        bl      puthex

        mov     x0, x19
        bl      find_link
        cmn     x0, #1
        b.eq    no_link
        mov     x20, x0                 // send
        mov     x21, x1                 // receive
        mov     x22, x2
        mov     x23, x3
        say     "\nlink: "
        mov     x0, x20
        bl      puthex
        say     " "
        mov     x0, x21
        bl      puthex
        say     " "
        mov     x0, x22
        bl      putdec
        say     " "
        mov     x0, x23
        bl      putdec

        bl      gic_start
        mov     x0, x23
        bl      spi_enable

        mov     x0, x20
        mov     x1, #request_end - request
        adr     x2, request
        mov     x3, #1                  // push
        mov     x4, #0
        hvc     #HVC_SEND
        cbnz    x0, call_failed

wait_for_reply:
        bl      irq_wait
        cmp     x0, x23
        b.ne    wait_for_reply
receive:
        mov     x0, x21
        adr     x1, buffer
        mov     x2, #240
        mov     x3, #0
        hvc     #HVC_RECEIVE
        cmp     w0, #60                 // empty: the interrupt was for something else
        b.eq    wait_for_reply
        cbnz    x0, call_failed
        adr     x24, buffer
        ldr     w25, [x24, #4]
        adr     x26, request
        ldr     w26, [x26, #4]
        cmp     w25, w26
        b.ne    receive
        ldr     w25, [x24, #8]
        say     "\nerror: "
        mov     x0, x25
        bl      puthex
        ldrh    w25, [x24, #12]
        say     "\nvmid: "
        mov     x0, x25
        bl      putdec

        mov64   x1, MILLISECONDS * 62500
        mrs     x24, cntvct_el0
        msr     cntv_tval_el0, x1
        mov     x1, #1
        msr     cntv_ctl_el0, x1
        isb
wait_for_timer:
        bl      irq_wait
        cmp     x0, #TIMER_INTID
        b.ne    wait_for_timer
        mrs     x25, cntvct_el0
        msr     cntv_ctl_el0, xzr
        sub     x25, x25, x24
        say     "\nslept: "
        mov     x0, x25
        bl      putdec
        say     "\nguest: goodbye\n"
        psci    PSCI_SYSTEM_OFF

call_failed:
        mov     x19, x0
        say     "\nfailed: "
        mov     x0, x19
        bl      puthex
        b       off
no_link:
        say     "\nno link in the device tree"
off:    say     "\n"
        psci    PSCI_SYSTEM_OFF

// GET_VMID without payload: API 1 with 2 header words, request without fragments, sequence 1 (rm-rpc.md 1)
request:
        .byte   0x21, 0x01
        .hword  1
        .word   0x56000024
request_end:

        .include "lib.inc"

        .balign 16
buffer: .space  256
        .space  4096
stack:
