#include "logprobs.h"
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <vector>
#include <algorithm>
#include SOFTMAX
static double now(){timespec t;clock_gettime(CLOCK_MONOTONIC,&t);return t.tv_sec+1e-9*t.tv_nsec;}
int main(){
  const int n=1024; alignas(64) static float x[1024]; for(auto&v:x)v=-8.0f*rand()/RAND_MAX; 
  rrm::Tempered t(1.0f); std::vector<double> ts; float r=0,m=0,sr=0,sm=0;
  for(int rep=0;rep<21;rep++){double a=now(); for(int k=0;k<2000;k++){ sum_block<false>(x,n,0.0f,t,(const char*)x,0,&r,&m); sr+=r; sm+=m;} ts.push_back((now()-a)/2000/(n/kLanes)*1e9);}
  std::sort(ts.begin(),ts.end()); printf("%s median %.3f min %.3f ns per vector  (%g %g)\n",SOFTMAX,ts[10],ts[0],r,m);
  // fma rate
  Vec c[10]; for(auto&v:c)v=splat(0.5f); Vec s=splat(0.999f); double a=now(); for(int k=0;k<10000000;k++){ for(auto&v:c) v=fma(v,s,s); asm volatile(""::"x"(c[0]),"x"(c[1]),"x"(c[2]),"x"(c[3]),"x"(c[4]),"x"(c[5]),"x"(c[6]),"x"(c[7]),"x"(c[8]),"x"(c[9]));} 
  double e=(now()-a)/1e8*1e9; float q=0; for(auto&v:c)q+=v[0]; printf("fma %.4f ns (%g)\n",e,q);
}
