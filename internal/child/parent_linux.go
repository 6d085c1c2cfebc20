package child

import "syscall"

// endWithParent lets the kernel kill the program when this one dies.
func endWithParent(attr *syscall.SysProcAttr) { attr.Pdeathsig = syscall.SIGKILL }
